// Command publish says something in a room of the cluster from outside, as a cron job would. Its service never runs: it is
// no node, has no connections, and asks for none.
//
//	go run ./examples/cluster/publish -redis localhost:6379 -channel room:lobby -text "The build is green."
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/examples/chat/rooms"
	"github.com/duxweb/go-ws/examples/cluster/past"
)

func main() {
	address := flag.String("redis", "localhost:6379", "host:port of the cluster's Redis")
	channel := flag.String("channel", rooms.Lobby, "where to say it")
	text := flag.String("text", "hello", "what to say")
	flag.Parse()
	logging.Disable() // the error says it
	if err := publish(*address, *channel, *text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("said in", *channel)
}

func publish(address, channel, text string) error {
	client := redis.NewClient(&redis.Options{Addr: address})
	defer client.Close()
	driver, err := drivers.NewRedisDriver(&drivers.RedisOptions{Client: client, Prefix: past.Prefix})
	if err != nil {
		return err
	}
	service := core.New(driver)
	defer service.Shutdown(context.Background()) //nolint:errcheck // it has nothing left to do
	chat := rooms.Over(past.In(client))          // so that who enters later reads it, too; else service.Push is enough
	return chat.Push(service, strings.TrimPrefix(channel, "room:"), text)
}
