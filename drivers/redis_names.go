package drivers

import (
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/duxweb/go-ws/core"
)

// Every name on Redis begins "prefix:{lane}:". The braces end the prefix, so that no two prefixes meet, and on a Cluster
// they put a lane into one slot. docs/deployment.md lists the names; what is said there about pub does not change.

// base returns how the names of a lane begin. A DB other than 0 is part of it: pub/sub knows no DBs.
func (d *redisDriver) base(lane int) string {
	tag := strconv.Itoa(lane)
	if d.db != 0 {
		tag += "/" + strconv.Itoa(d.db)
	}
	return d.prefix + ":{" + tag + "}:"
}

// scoped joins an app and a name within it: no two pairs give the same text.
func scoped(app, name string) string {
	if strings.ContainsAny(app, ":%") {
		app = strings.ReplaceAll(strings.ReplaceAll(app, "%", "%25"), ":", "%3A")
	}
	return app + ":" + name
}

// unscoped undoes scoped.
func unscoped(text string) (app, name string, ok bool) {
	app, name, ok = strings.Cut(text, ":")
	if strings.Contains(app, "%") {
		app = strings.ReplaceAll(strings.ReplaceAll(app, "%3A", ":"), "%25", "%")
	}
	return app, name, ok
}

func topicText(t core.Topic) string { return scoped(t.App, t.Channel) }

// pubOf returns the lane and the channel of pub/sub of a topic.
func (l *redisLink) pubOf(t core.Topic) (lane *redisLane, name string) {
	if len(l.lanes) == 1 && !strings.ContainsAny(t.App, ":%") { // each publication comes by here
		return l.lanes[0], l.lanes[0].pubBase + t.App + ":" + t.Channel
	}
	text := topicText(t)
	lane = l.laneOf(text)
	return lane, lane.pubBase + text
}

// laneOf returns the lane of a scoped text or the id of a node.
func (l *redisLink) laneOf(text string) *redisLane {
	if len(l.lanes) == 1 {
		return l.lanes[0]
	}
	return l.lanes[crc32.ChecksumIEEE([]byte(text))%uint32(len(l.lanes))]
}

// Channels of pub/sub, beside pubBase.
func (l *redisLane) nodeName(id string) string { return l.base + "node:" + id }
func (l *redisLane) everybody() string         { return l.base + "all" }

// Keys. A registration is what a node has written under one name; it takes a new one when it has to begin again.
func (l *redisLane) nodes() string                   { return l.base + "nodes" }                       // hash: registration -> counter, or "dead"
func (l *redisLane) epoch() string                   { return l.base + "epoch" }                       // what changes when all data is lost
func (l *redisLane) number() string                  { return l.base + "number" }                      // the last number given out
func (l *redisLane) client(text string) string       { return l.base + "client:" + text }              // hash: connection -> registration, number, member
func (l *redisLane) conns(reg string) string         { return l.base + "conns:" + reg }                // hash: connection -> client
func (l *redisLane) topics(reg string) string        { return l.base + "topics:" + reg }               // set of topics with members
func (l *redisLane) members(reg, text string) string { return l.base + "members:" + reg + ":" + text } // hash: connection -> member
func (l *redisLane) in(text string) string           { return l.base + "in:" + text }                  // set of registrations with members
func (l *redisLane) count(text string) string        { return l.base + "count:" + text }               // hash: client id -> connections
