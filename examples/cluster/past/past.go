// Package past keeps what was said in the rooms in Redis, where all nodes of the cluster read it.
package past

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/examples/chat/rooms"
)

// Prefix begins the names of everything that this cluster has in Redis.
const Prefix = "gows-chat"

// patience is shorter than that of a page, which then reads "unavailable" instead of nothing.
const patience = 2 * time.Second

type past struct{ client *redis.Client }

// In returns the past that a Redis knows: one stream for each room. An entry's id is the time of its message.
func In(client *redis.Client) rooms.Past { return past{client} }

func (p past) Keep(message *core.Message) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	entry := &redis.XAddArgs{Stream: stream(message.Channel), MaxLen: rooms.Remembered, Values: []any{"message", text}}
	id, err := p.client.XAdd(ctx, entry).Result()
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrUnavailable, err)
	}
	message.Meta, err = timeOf(id)
	return err
}

func (p past) Last(channel string) ([]core.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	entries, err := p.client.XRevRangeN(ctx, stream(channel), "+", "-", rooms.Remembered).Result()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", core.ErrUnavailable, err)
	}
	slices.Reverse(entries)
	messages := make([]core.Message, len(entries))
	for i, entry := range entries {
		text, _ := entry.Values["message"].(string)
		if err := json.Unmarshal([]byte(text), &messages[i]); err != nil {
			return nil, err
		}
		if messages[i].Meta, err = timeOf(entry.ID); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

func stream(channel string) string { return Prefix + ":past:" + channel }

// timeOf reads an id, which is milliseconds and a number that tells entries of the same millisecond apart.
func timeOf(id string) (rooms.Time, error) {
	var ms, number int64
	_, err := fmt.Sscanf(id, "%d-%d", &ms, &number)
	return rooms.Time{Time: float64(ms) + float64(number)/1000}, err
}
