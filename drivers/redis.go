package drivers

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/duxweb/go-ws/core"
)

// RedisOptions say how NewRedisDriver reaches Redis. The zero value is a server on this machine.
type RedisOptions struct {
	// Client is an existing client: a *redis.Client, also one made by NewFailoverClient (Sentinel), or a
	// *redis.ClusterClient. The driver takes its settings for connections of its own: the client is not closed, and hooks
	// added to it see nothing of the driver. A client for Sentinel is asked which server is the master, so close it after
	// the services have ended. Addr to MinIdleConns are ignored then.
	Client redis.UniversalClient

	Addr         string // of the server; default "localhost:6379"
	Password     string
	DB           int
	PoolSize     int // connections for reading and commands at most, beside four of the driver's own; default 10
	MinIdleConns int // connections that are kept when there is nothing to do; default 5

	// Prefix begins every key and channel name; default "ws". Services under two prefixes, or in two DBs, never meet, on
	// whatever server. It must not contain "{" or "}".
	Prefix string
}

const (
	dialTimeout  = 3 * time.Second
	replyTimeout = 3 * time.Second // also how long a subscription may take to be confirmed
	callTimeout  = 5 * time.Second // for calls whose context has no deadline, and for what follows them
	clusterLanes = 16
	ownConns     = 3 // of a lane: publishing, presence, and one to spare while one of them is replaced
)

// NewRedisDriver returns a driver that joins services in any number of processes by way of Redis 6.2 or newer: a single
// server, one that Sentinel fails over, or a Cluster (7.0 or newer). It asks the server whether it can be used, for 5 s at
// most, and returns an error that says what to change. nil stands for the zero RedisOptions. The driver itself has
// nothing to close: each service opens connections at Run and closes them at Shutdown.
func NewRedisDriver(options *RedisOptions) (core.Driver, error) {
	if options == nil {
		options = &RedisOptions{}
	}
	prefix := cmp.Or(options.Prefix, "ws")
	if strings.ContainsAny(prefix, "{}") {
		return nil, fmt.Errorf("gows: redis: RedisOptions.Prefix %q: leave out { and }", prefix)
	}
	d := &redisDriver{prefix: prefix, lanes: 1, given: options.Client != nil}
	switch client := options.Client.(type) {
	case nil:
		d.single(ownOptions(options))
	case *redis.Client:
		d.single(derived(client.Options()))
	case *redis.ClusterClient:
		d.cluster(derivedCluster(client.Options()))
	default:
		return nil, fmt.Errorf("gows: redis: RedisOptions.Client is a %T: give a *redis.Client or a *redis.ClusterClient", client)
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, nil
}

// redisDriver makes links, which share nothing.
type redisDriver struct {
	connect func() redisServers // for reading and commands
	own     func() redisServers // for what must not wait behind those: publishing, presence, subscriptions
	prefix  string
	db      int
	lanes   int
	where   string // for errors
	given   bool   // by a client
}

func (d *redisDriver) single(o *redis.Options) {
	own := *o
	own.PoolSize, own.MinIdleConns, own.MaxActiveConns = ownConns, 0, 0
	d.connect = func() redisServers { return newSingleServer(o) }
	d.own = func() redisServers { return newSingleServer(&own) }
	d.db, d.where = o.DB, o.Addr
	if d.where == "FailoverClient" { // what go-redis calls it
		d.where = "the address that Sentinel names"
	}
}

func (d *redisDriver) cluster(o *redis.ClusterOptions) {
	own := *o
	own.PoolSize, own.MinIdleConns, own.MaxActiveConns = ownConns*clusterLanes, 0, 0
	d.connect = func() redisServers { return clusterServers{redis.NewClusterClient(o)} }
	d.own = func() redisServers { return clusterServers{redis.NewClusterClient(&own)} }
	d.lanes, d.where = clusterLanes, strings.Join(o.Addrs, ",")
}

func ownOptions(o *RedisOptions) *redis.Options {
	return derived(&redis.Options{
		Addr: cmp.Or(o.Addr, "localhost:6379"), Password: o.Password, DB: o.DB,
		PoolSize: cmp.Or(o.PoolSize, 10), MinIdleConns: cmp.Or(o.MinIdleConns, 5),
	})
}

// derived returns options for connections of the driver. Nothing is retried: go-redis repeats a whole pipeline when one
// reply is lost, and every publication in it would arrive twice.
func derived(from *redis.Options) *redis.Options {
	o := *from
	o.MaxRetries = -1
	o.DialTimeout, o.DialerRetries = dialTimeout, 1
	o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = replyTimeout, replyTimeout, replyTimeout
	o.ContextTimeoutEnabled = true
	o.Protocol = 2 // nothing of 3 is used, and it looks for push messages before each reply
	o.PushNotificationProcessor, o.MaintNotificationsConfig = nil, noNotifications()
	if o.Dialer == nil {
		o.Dialer = redis.NewDialer(&o)
	}
	o.Dialer = onlyWhenAsked(o.Dialer)
	return &o
}

func derivedCluster(from *redis.ClusterOptions) *redis.ClusterOptions {
	o := *from
	o.MaxRedirects = -1 // the lanes follow a slot that moves
	o.DialTimeout, o.DialerRetries = dialTimeout, 1
	o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = replyTimeout, replyTimeout, replyTimeout
	o.ContextTimeoutEnabled = true
	o.Protocol = 2
	o.PushNotificationProcessor, o.MaintNotificationsConfig = nil, noNotifications()
	o.ReadOnly, o.RouteByLatency, o.RouteRandomly = false, false, false
	if o.Dialer == nil {
		o.Dialer = redis.NewDialer(&redis.Options{DialTimeout: dialTimeout, TLSConfig: o.TLSConfig})
	}
	o.Dialer = onlyWhenAsked(o.Dialer)
	return &o
}

// noNotifications turns off what is for protocol 3 alone.
func noNotifications() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// received marks the context of what is done on a subscription connection. When that breaks, go-redis makes another one
// by itself and subscribes it to everything, which the receiver does better: such a dial is refused.
type received struct{}

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

func onlyWhenAsked(dial dialer) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if ctx.Value(received{}) != nil {
			return nil, net.ErrClosed
		}
		return dial(ctx, network, addr)
	}
}

// check asks the server whether it can be used.
func (d *redisDriver) check() error {
	servers := d.connect()
	defer servers.close()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	client, err := servers.server(ctx, d.base(0))
	if err == nil {
		var info string
		info, err = client.Info(ctx).Result()
		switch {
		case err == nil:
			return d.checkInfo(info)
		case redis.HasErrorPrefix(err, "NOPERM"): // a user that may not ask
			err = client.Ping(ctx).Err()
		}
	}
	if err != nil {
		return fmt.Errorf("gows: redis at %s: %w%s", d.where, err, d.advice(err))
	}
	return nil
}

// advice says what to change, where the server's own words do not.
func (d *redisDriver) advice(err error) string {
	text := err.Error()
	see := func(option string) string {
		if d.given {
			option = "Client"
		}
		return ", see RedisOptions." + option
	}
	switch {
	case strings.Contains(text, "SELECT is not allowed in cluster mode"):
		return ": it is part of a Cluster, give a redis.NewClusterClient as RedisOptions.Client"
	case strings.Contains(text, "cluster support disabled"):
		return ": the client is for a Cluster, the server is none"
	case strings.Contains(text, "DB index"):
		return ": there is no DB " + strconv.Itoa(d.db) + see("DB")
	case strings.Contains(text, "WRONGPASS"), strings.Contains(text, "NOAUTH"), strings.Contains(text, "AUTH"):
		return see("Password")
	case strings.Contains(text, "connection refused"), strings.Contains(text, "no such host"):
		return ": does it run there?" + strings.TrimPrefix(see("Addr"), ",")
	case silent(err):
		return ": it does not answer"
	}
	return ""
}

// checkInfo checks the answer to INFO.
func (d *redisDriver) checkInfo(info string) error {
	version, cluster := "", false
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "redis_version":
			version = value
		case name == "redis_mode":
			cluster = value == "cluster"
		case name == "role" && value == "slave":
			return fmt.Errorf("gows: redis at %s is a replica: give the address of the master", d.where)
		}
	}
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return nil //nolint:nilerr // something compatible, which does not say what it is
	}
	switch {
	case cluster && d.lanes == 1:
		return fmt.Errorf("gows: redis at %s is part of a Cluster: give a redis.NewClusterClient as RedisOptions.Client", d.where)
	case d.lanes > 1 && major < 7:
		return fmt.Errorf("gows: redis at %s is version %s: a Cluster needs 7.0, which has sharded pub/sub", d.where, version)
	case major < 6 || major == 6 && minor < 2:
		return fmt.Errorf("gows: redis at %s is version %s: 6.2 is needed at least", d.where, version)
	}
	return nil
}
