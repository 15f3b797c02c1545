package core_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

func TestRunReportsOptionsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for want, opts := range map[string][]core.Option{
		"gows: core.WithMessageBytes(0): must be more than 0":                                                       {core.WithMessageBytes(0)},
		"gows: core.WithPushBytes(-1): must be more than 0":                                                         {core.WithPushBytes(-1)},
		"gows: core.WithOutboxBytes(0): must be more than 0":                                                        {core.WithOutboxBytes(0)},
		"gows: core.WithPing(0s): must be more than 0":                                                              {core.WithPing(0, time.Second)},
		"gows: core.WithPing(-1s): must be more than 0":                                                             {core.WithPing(time.Second, -time.Second)},
		"gows: core.WithWriteStall(0s): must be more than 0":                                                        {core.WithWriteStall(0)},
		"gows: core.WithAuthTimeout(0s): must be more than 0":                                                       {core.WithAuthTimeout(0)},
		"gows: core.WithMaxChannels(0): must be more than 0":                                                        {core.WithMaxChannels(0)},
		"gows: core.WithChannelBytes(0): must be more than 0":                                                       {core.WithChannelBytes(0)},
		`gows: core.WithOrigins("example.com"): a full origin such as "https://app.example.com" is needed`:          {core.WithOrigins("example.com")},
		`gows: core.WithOrigins("*"): a full origin such as "https://app.example.com" is needed`:                    {core.WithOrigins("null", "*")},
		`gows: core.WithOrigins("https://example.com/"): a full origin such as "https://app.example.com" is needed`: {core.WithOrigins("https://example.com/")},
		`gows: core.WithOrigins("https://"): a full origin such as "https://app.example.com" is needed`:             {core.WithOrigins("https://")},
		`gows: core.WithChannel(""): a pattern such as "room:*" is needed`:                                          {core.WithChannel("", core.Rules{})},
		"gows: core.WithPushBytes(0): must be more than 0\ngows: core.WithMaxChannels(-7): must be more than 0":     {core.WithPushBytes(0), core.WithMaxChannels(-7)},
	} {
		service := core.New(drivers.NewMemoryDriver(), append(opts, core.WithLogger(nil))...)
		if err := service.Run(); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if err := service.Health(context.Background()); err == nil || err.Error() != want {
			t.Errorf("Health: %v", err)
		}
		if err := service.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	online := make(chan *core.Client, 1)
	service := coretest.Run(t, &core.Provider{
		Event: func(name string, client *core.Client) error {
			if name == core.EventOnline {
				online <- client
			}
			return nil
		},
		Message: func(*core.Message, *core.Client) error { return nil },
	})
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	client := <-online

	name := strings.Repeat("x", 200)
	if err := client.Sub(name); err != nil {
		t.Error("a channel name of 200 bytes:", err)
	}
	if err := client.Sub(name + "x"); !errors.Is(err, core.ErrChannelName) {
		t.Error("a channel name of 201 bytes:", err)
	}
	var channels []string
	for i := range 1023 {
		channels = append(channels, strconv.Itoa(i))
	}
	if err := client.Sub(channels...); err != nil {
		t.Error("1,024 channels:", err)
	}
	if err := client.Sub("one more"); !errors.Is(err, core.ErrTooManyChannels) || !strings.Contains(err.Error(), "1024 channels at most (core.WithMaxChannels)") {
		t.Error("1,025 channels:", err)
	}
	if err := client.Sub("0", "1", name); err != nil {
		t.Error("channels it is in already:", err)
	}

	data := strings.Repeat("x", 1<<20-len(`{"type":"message","data":""}`))
	if err := client.Send(data); err != nil {
		t.Error("1 MiB out:", err)
	}
	conn.Expect("message")
	if err := client.Send(data + "x"); !errors.Is(err, core.ErrTooLarge) {
		t.Error("more than 1 MiB out:", err)
	}
	text := `{"type":"x","id":"1","data":"` + strings.Repeat("x", 64<<10-len(`{"type":"x","id":"1","data":""}`)) + `"}`
	conn.SendText(text)
	conn.Expect("receive")
	conn.SendText(text + " ")
	if why := conn.Closed(); why.Code != 1009 || why.Reason != "message larger than 65536 bytes" {
		t.Error("more than 64 KiB in:", why)
	}
}

func TestTheLogIsSlogsDefaultUnlessGiven(t *testing.T) { //nolint:paralleltest // it changes slog.Default
	var text bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&text, nil)))
	defaulted := core.New(nil)
	silent := core.New(nil, core.WithLogger(nil))
	slog.SetDefault(before)
	for _, service := range []*core.Service{defaulted, silent} {
		if err := service.Run(); err == nil {
			t.Error("it runs without a driver")
		}
	}
	if n := strings.Count(text.String(), "gows: the service does not run"); n != 1 {
		t.Errorf("%d lines, want the one of the service without WithLogger:\n%s", n, &text)
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		matches       bool
	}{
		{"room", "room", true},
		{"room", "room:1", false},
		{"room:*", "room:1", true},
		{"room:*", "room:", true},
		{"room:*", "room:1:2", true},
		{"room:*", "rooms:1", false},
		{"room:*", "a room:1", false},
		{"*", "", true},
		{"*", "anything", true},
		{"*:log", "a:log", true},
		{"*:log", "a:log:b", false},
		{"a*b*c", "abc", true},
		{"a*b*c", "a1b2c", true},
		{"a*b*c", "a1b2b3c", true},
		{"a*b*c", "acb", false},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"a*ab*b", "aab", false},
		{"a**c", "abc", true},
		{"房*", "房间", true},
	} {
		if got := core.Matches(c.pattern, c.name); got != c.matches {
			t.Errorf("%q matches %q: %v", c.pattern, c.name, got)
		}
	}
}
