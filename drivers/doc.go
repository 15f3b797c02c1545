// Package drivers holds the drivers that join the nodes of a service: memory for one process, Redis for many.
//
// # How the Redis driver works
//
// One file is one step; read them in this order.
//
//	redis.go           RedisOptions, and whether the server can be used
//	redis_servers.go   which server to ask: the one, the master that Sentinel names, or those of a Cluster
//	redis_names.go     keys and channels
//	redis_link.go      a node's end: Open, what is in force, Close
//	redis_publish.go   out: one goroutine that fills pipelines
//	redis_receive.go   in: one connection that is subscribed to what the node wants
//	redis_command.go   orders of one node to another, and the answers
//	redis_presence.go  who is here: one goroutine that writes it     redis_scripts.go, scripts/*.lua  what runs on the server
//	redis_liveness.go  which nodes live, and what becomes of a dead one's members
//	redis_read.go      members, count, find
//
// On a Cluster all of it exists once per lane: a part of the names that lies in one slot. Elsewhere there is one lane.
//
// Goroutines: per lane the publisher, the presence writer, and the reader and writer of the subscription; eight workers for
// commands; and one for each dead registration while it is swept. Close waits for all of them.
//
// Locks are taken in the order redisReceiver.mu or redisPresence.mu, redisLink.telling, redisLink.state, those of the core. None is held
// across a round trip.
package drivers
