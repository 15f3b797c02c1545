package server

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"

	"github.com/centrifugal/centrifuge"
)

// centrifugeQueue is how many bytes may wait for one client. The default is 1 MiB, into which 64 messages of 64 KiB, or the
// answers to a publisher that is read late, do not fit.
const centrifugeQueue = 64 << 20

func serveCentrifuge(l net.Listener, redis string) error {
	node, err := centrifuge.New(centrifuge.Config{ClientQueueMaxSize: centrifugeQueue})
	if err != nil {
		return err
	}
	if redis != "" {
		if err := joinRedis(node, redis); err != nil {
			return err
		}
	}
	node.OnConnect(func(c *centrifuge.Client) {
		c.OnSubscribe(func(_ centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
			done(centrifuge.SubscribeReply{}, nil)
		})
		c.OnPublish(func(_ centrifuge.PublishEvent, done centrifuge.PublishCallback) { done(centrifuge.PublishReply{}, nil) })
		c.OnRPC(func(e centrifuge.RPCEvent, done centrifuge.RPCCallback) { done(centrifuge.RPCReply{}, call(node, e)) })
	})
	if err := node.Run(); err != nil {
		return err
	}
	ws := centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		// Its pings are messages of its protocol, which the clients of this benchmark would have to answer.
		PingPongConfig: centrifuge.PingPongConfig{PingInterval: -1, PongTimeout: -1},
	})
	return errors.Join(serveHTTP(l, named(ws)), node.Shutdown(context.Background()))
}

func joinRedis(node *centrifuge.Node, address string) error {
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: address})
	if err != nil {
		return err
	}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: []*centrifuge.RedisShard{shard}})
	if err != nil {
		return err
	}
	node.SetBroker(broker)
	return nil
}

// named makes the token of a request its user.
func named(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := &centrifuge.Credentials{UserID: r.URL.Query().Get("token")}
		next.ServeHTTP(w, r.WithContext(centrifuge.SetCredentials(r.Context(), user)))
	})
}

// call is the method "direct". It reaches the clients of this node.
func call(node *centrifuge.Node, e centrifuge.RPCEvent) error {
	if e.Method != "direct" {
		return centrifuge.ErrorMethodNotFound
	}
	var message struct {
		Client  string `json:"client,omitempty"`
		Message string `json:"message"`
	}
	if json.Unmarshal(e.Data, &message) != nil {
		return centrifuge.ErrorBadRequest
	}
	to := message.Client
	message.Client = ""
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	for _, c := range node.Hub().UserConnections(to) {
		_ = c.Send(data) // fails where the client has ended
	}
	return nil
}
