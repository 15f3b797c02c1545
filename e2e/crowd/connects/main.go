// Command connects opens connections at a steady rate and prints how long they took: until the 101, and until the answer
// to a first subscribe.
//
//	go run ./crowd/connects -url ws://127.0.0.1:8081/ws -rate 2000 -n 8000
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

func main() {
	url := flag.String("url", "ws://127.0.0.1:8081/ws", "server; a token is added to it")
	rate := flag.Int("rate", 2000, "connects per second")
	n := flag.Int("n", 8000, "connections")
	channels := flag.Int("channels", 100, "connection i subscribes to channel i mod this")
	flag.Parse()

	opened, answered := make([]time.Duration, *n), make([]time.Duration, *n)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards conns and failed
	var conns []*websocket.Conn
	failed := 0
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	begun := time.Now()
	for next := 0; next < *n; {
		now := <-tick.C
		due := min(*n, int(now.Sub(begun).Seconds()*float64(*rate)))
		first := next
		next = max(next, due)
		for i := first; i < next; i++ {
			wg.Go(func() { // ends with its connection's answer
				conn, err := connect(fmt.Sprintf("%s?token=user%d", *url, i), fmt.Sprint("room ", i%*channels), &opened[i], &answered[i])
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
					fmt.Fprintln(os.Stderr, err)
					return
				}
				conns = append(conns, conn)
			})
		}
	}
	wg.Wait()
	fmt.Printf("connects %d in %.2f s, failed %d\n", *n, time.Since(begun).Seconds(), failed)
	report("until the 101", opened)
	report("until the answer to subscribe", answered)
	for _, conn := range conns {
		_ = conn.Close()
	}
}

func connect(url, channel string, opened, answered *time.Duration) (*websocket.Conn, error) {
	begun := time.Now()
	dialer := websocket.Dialer{ReadBufferSize: 512, WriteBufferSize: 512}
	conn, response, err := dialer.Dial(url, nil)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	_ = response.Body.Close()
	*opened = time.Since(begun)
	if err := conn.WriteJSON(map[string]string{"id": "1", "type": "subscribe", "channel": channel}); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	var answer struct{ Type, Message string }
	if err := conn.ReadJSON(&answer); err != nil || answer.Type != "receive" {
		return nil, fmt.Errorf("answer %q %q: %w", answer.Type, answer.Message, err)
	}
	*answered = time.Since(begun)
	return conn, nil
}

func report(what string, took []time.Duration) {
	slices.Sort(took)
	at := func(share float64) float64 {
		return float64(took[int(share*float64(len(took)-1))].Microseconds()) / 1000
	}
	fmt.Printf("%s: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, max %.2f ms\n", what, at(0.5), at(0.9), at(0.99), at(1))
}
