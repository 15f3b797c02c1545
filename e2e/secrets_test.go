package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/internal/redistest"
)

// secret is in every token, message and garbage here, and in the password of Redis.
const secret = "hush-hush"

const printsAll = "GOWS_PRINTS_ALL" // set in the environment of the process whose output is looked at

// TestNothingSecretIsPrintedOfRedis looks at all that a process prints which sets no logger, that of go-redis included.
func TestNothingSecretIsPrintedOfRedis(t *testing.T) {
	t.Parallel()
	if os.Getenv(printsAll) != "" {
		redisGoesWrong(t)
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	child.Env = append(os.Environ(), printsAll+"=yes")
	output, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	text := string(output)
	for line := range strings.Lines(text) {
		if strings.Contains(line, secret) || strings.ContainsAny(line, "\x00\x1b") || !utf8.ValidString(line) {
			t.Errorf("printed: %q", line)
		}
	}
	for _, what := range []string{"gows: driver", "driver away", "a message failed", "WRONGPASS"} {
		if !strings.Contains(text, what) {
			t.Errorf("nothing was printed of %q:\n%s", what, text)
		}
	}
}

func redisGoesWrong(t *testing.T) {
	t.Helper()
	server := redistest.Start(t, "--requirepass", secret)
	options := drivers.RedisOptions{Addr: server.Addr(), Password: secret}
	driver, err := drivers.NewRedisDriver(&options)
	if err != nil {
		t.Fatal(err)
	}
	service := coretest.RunOn(t, driver, &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			return map[string]any{"client_id": "alice", "token": token}, nil
		},
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
	})
	alice := coretest.ConnectToken(t, service, secret)
	alice.Do(core.Message{Type: "subscribe", Channel: "room"})
	publish := func(name, text string) {
		if err := server.Client().Publish(t.Context(), name, text).Err(); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"ws:{0}:pub::room", "ws:{0}:pub::", "ws:{0}:all", "ws:{0}:node:" + service.Stats().Node} {
		for _, text := range []string{secret, `{"` + secret, `{"action":"` + secret + `"`, "\x01" + secret, "\x00\x1b[2J" + secret, secret + "\xff", `["` + secret + `"]`} {
			publish(name, text)
		}
	}
	server.Kill()
	for range 3 {
		alice.Error(503, core.Message{Type: "message", Channel: "room", Message: secret, Data: secret})
		_ = service.Push([]string{"room"}, secret)
		_ = service.Send(t.Context(), "alice", secret)
	}
	until(t, "the outage is logged, a second after it began", func() bool { return service.Stats().DriverAway > 2*time.Second })
	server.Restart()
	alice.Expect("gap")
	server.CLI("CONFIG", "SET", "requirepass", "other-"+secret)
	wrong := options
	_, err = drivers.NewRedisDriver(&wrong)
	fmt.Println(err) // which programs log
}
