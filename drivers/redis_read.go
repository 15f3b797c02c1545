package drivers

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
)

// scanLength is how many members are read at a time: a crowd must not hold up the server.
const scanLength = 1000

func (l *redisLink) Members(ctx context.Context, topic core.Topic, limit int) ([]core.Member, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	text := topicText(topic)
	lane := l.laneOf(text)
	var members []core.Member
	err := lane.read(ctx, func(client *redis.Client) (key string, err error) {
		members = nil
		regs, err := client.SMembers(ctx, lane.in(text)).Result()
		if err != nil {
			return lane.in(text), err
		}
		listed := map[string]bool{} // a scan may return one twice, and a node that registers anew is there twice
		for _, reg := range regs {
			key = lane.members(reg, text)
			for cursor := uint64(0); ; {
				var fields []string
				if fields, cursor, err = client.HScan(ctx, key, cursor, "", scanOf(limit)).Result(); err != nil {
					return key, err
				}
				for i := 0; i+1 < len(fields); i += 2 {
					if limit > 0 && len(members) == limit {
						return "", nil
					}
					m, err := decodeTopicMember(fields[i+1])
					if err != nil {
						l.fault(fmt.Errorf("redis key %q, field %q: %w", key, fields[i], err))
						continue
					}
					if !listed[m.ConnID] {
						listed[m.ConnID] = true
						members = append(members, m)
					}
				}
				if cursor == 0 {
					break
				}
			}
		}
		return "", nil
	})
	return members, err
}

func scanOf(limit int) int64 {
	if limit <= 0 || limit > scanLength {
		return scanLength
	}
	return int64(limit)
}

func (l *redisLink) Count(ctx context.Context, topic core.Topic) (int, error) {
	if err := l.open(); err != nil {
		return 0, err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	text := topicText(topic)
	lane := l.laneOf(text)
	var n int64
	err := lane.read(ctx, func(client *redis.Client) (key string, err error) {
		n, err = client.HLen(ctx, lane.count(text)).Result()
		return lane.count(text), err
	})
	return int(n), err
}

func (l *redisLink) Find(ctx context.Context, app, clientID string) ([]core.Member, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	text := scoped(app, clientID)
	lane := l.laneOf(text)
	var found []core.Member
	err := lane.read(ctx, func(client *redis.Client) (key string, err error) {
		found = nil
		key = lane.client(text)
		values, err := client.HGetAll(ctx, key).Result()
		if err != nil {
			return key, err
		}
		for field, value := range values {
			m, err := decodeClientMember(clientID, value)
			if err != nil {
				l.fault(fmt.Errorf("redis key %q, field %q: %w", key, field, err))
				continue
			}
			found = append(found, m)
		}
		return "", nil
	})
	return found, err
}

// read asks the lane's server, and again while that is being replaced by another one. ask returns the key that an error
// is about.
func (l *redisLane) read(ctx context.Context, ask func(*redis.Client) (key string, err error)) error {
	for wait := firstPause; ; wait = min(2*wait, lastPause) {
		client, err := l.reader(ctx)
		var key string
		if err == nil {
			key, err = ask(client)
		}
		if err == nil {
			return nil
		}
		l.doubtReader(ctx, client, err)
		if fateOf(err) != misplaced || ctx.Err() != nil {
			return l.explain(ctx, err, []string{key})
		}
		pause(ctx, wait)
	}
}

// explain names the key of a wrong type that a command has met.
func (l *redisLane) explain(ctx context.Context, err error, keys []string) error {
	if !wrongType(err) {
		return err
	}
	client, unreachable := l.reader(ctx)
	if unreachable != nil {
		return err
	}
	for _, key := range keys {
		is, failed := client.Type(ctx, key).Result()
		if failed == nil && is != "none" && (is != l.typeOf(key) || key == l.number() && notANumber(err)) {
			return fmt.Errorf("redis key %q holds a %s, which is not of go-ws: delete it, or choose another RedisOptions.Prefix: %w",
				key, is, err)
		}
	}
	return fmt.Errorf("one of the redis keys %q: %w", keys, err)
}

func wrongType(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "WRONGTYPE") || notANumber(err))
}

func notANumber(err error) bool { return strings.Contains(err.Error(), "is not an integer") }

// typeOf returns the type of the keys of that name.
func (l *redisLane) typeOf(key string) string {
	switch kind, _, _ := strings.Cut(strings.TrimPrefix(key, l.base), ":"); kind {
	case "number", "epoch":
		return "string"
	case "topics", "in":
		return "set"
	}
	return "hash"
}
