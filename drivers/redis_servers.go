package drivers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// redisServers knows which server to ask. All methods may be called concurrently.
type redisServers interface {
	// server returns the client of the server that has a key.
	server(ctx context.Context, key string) (*redis.Client, error)
	// doubt is told of a client that failed: the server may have moved, and its connections may be dead.
	doubt(ctx context.Context, client *redis.Client)
	close()
}

// singleServer is one server, or the one that Sentinel says is the master.
type singleServer struct {
	options *redis.Options

	mu     sync.Mutex // guards client
	client *redis.Client
	closed bool
}

func newSingleServer(o *redis.Options) *singleServer {
	return &singleServer{options: o, client: redis.NewClient(o)}
}

func (s *singleServer) server(context.Context, string) (*redis.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client, nil
}

// doubt begins with new connections, for subscriptions too: each of the old ones would take a time-out to find out that its server is gone.
func (s *singleServer) doubt(_ context.Context, client *redis.Client) {
	s.mu.Lock()
	fresh := s.client == client && !s.closed
	if fresh {
		s.client = redis.NewClient(s.options)
	}
	s.mu.Unlock()
	if fresh {
		_ = client.Close()
	}
}

func (s *singleServer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	_ = s.client.Close()
}

// clusterServers are the masters of a Cluster.
type clusterServers struct{ *redis.ClusterClient }

func (s clusterServers) server(ctx context.Context, key string) (*redis.Client, error) {
	client, err := s.MasterForKey(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("redis cluster: %w", err)
	}
	return client, nil
}

func (s clusterServers) doubt(ctx context.Context, _ *redis.Client) { s.ReloadState(ctx) }

func (s clusterServers) close() { _ = s.Close() }

// fate is what became of a command.
type fate uint8

const (
	carriedOut fate = iota
	refused         // the server said no
	misplaced       // the server said that it is not the one to ask, or not now: it did nothing
	outdated        // the registration is not valid any more: it did nothing, see guard.lua
	unknown         // there was no answer
)

func fateOf(err error) fate {
	var said redis.Error
	if err == nil {
		return carriedOut
	}
	if !errors.As(err, &said) {
		return unknown
	}
	kind, _, _ := strings.Cut(said.Error(), " ")
	switch kind {
	case "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "MASTERDOWN", "LOADING":
		return misplaced
	case "LOST":
		return outdated
	}
	return refused
}

// silent reports whether a server did not answer in time: its other connections are no better.
func silent(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// doubtful reports whether another server, or new connections, may do better.
func doubtful(err error) bool {
	switch fateOf(err) {
	case misplaced:
		return true
	case unknown:
		return silent(err)
	case carriedOut, refused, outdated:
	}
	return false
}

// exec carries out a pipeline. Each command has its own error afterwards: where go-redis got no connection it says so in
// what Exec returns, and not always in the commands.
func exec[C redis.Cmder](ctx context.Context, pipe redis.Pipeliner, cmds []C) {
	_, err := pipe.Exec(ctx)
	if err == nil {
		return
	}
	for _, c := range cmds {
		if c.Err() != nil {
			return
		}
	}
	for _, c := range cmds {
		c.SetErr(err)
	}
}
