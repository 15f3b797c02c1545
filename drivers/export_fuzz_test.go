package drivers

import (
	"context"

	"github.com/duxweb/go-ws/core"
)

// Inbox is what takes what arrives on Redis, without a server to arrive from.
type Inbox struct{ lane *redisLane }

// NewInbox returns one that gives everything to no node yet.
func NewInbox() *Inbox {
	d := &redisDriver{prefix: "ws", lanes: 1}
	l := &redisLink{driver: d, ctx: context.Background()}
	l.commands.init(l)
	l.lanes = []*redisLane{{link: l, base: d.base(0), pubBase: d.base(0) + "pub:"}}
	return &Inbox{l.lanes[0]}
}

// Take is what the receiver does with a message in a channel of Redis. Commands are carried out before it returns, and
// answered to nobody.
func (i *Inbox) Take(node core.Node, name, text string) {
	l := i.lane.link
	l.node, l.id = node, node.ID()
	i.lane.take(name, text)
	for _, work := range l.commands.workers {
		select {
		case e := <-work:
			l.commands.bytes.Add(-int64(e.size))
			e.ID = 0
			l.commands.carryOut(e)
		default:
		}
	}
}

// TopicMember and ClientMember are how Join and Register store a member, and the other way round.
func TopicMember(value string) (core.Member, error) { return decodeTopicMember(value) }

func ClientMember(clientID, value string) (core.Member, error) {
	return decodeClientMember(clientID, value)
}

var EncodeMember = encodeMember
