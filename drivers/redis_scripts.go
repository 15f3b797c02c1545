package drivers

import (
	"context"
	_ "embed" // the scripts

	"github.com/redis/go-redis/v9"
)

//nolint:gochecknoglobals // go:embed needs them
var (
	//go:embed scripts/guard.lua
	guardLua string
	//go:embed scripts/enter.lua
	enterLua string
	//go:embed scripts/beat.lua
	beatLua string
	//go:embed scripts/register.lua
	registerLua string
	//go:embed scripts/unregister.lua
	unregisterLua string
	//go:embed scripts/join.lua
	joinLua string
	//go:embed scripts/leave.lua
	leaveLua string
	//go:embed scripts/declare.lua
	declareLua string
	//go:embed scripts/sweeptopic.lua
	sweepTopicLua string
	//go:embed scripts/sweepclients.lua
	sweepClientsLua string
	//go:embed scripts/bury.lua
	buryLua string
)

// Scripts that write presence begin with the guard.
var (
	enterScript        = redis.NewScript(enterLua)
	beatScript         = redis.NewScript(guardLua + beatLua)
	registerScript     = redis.NewScript(guardLua + registerLua)
	unregisterScript   = redis.NewScript(guardLua + unregisterLua)
	joinScript         = redis.NewScript(guardLua + joinLua)
	leaveScript        = redis.NewScript(guardLua + leaveLua)
	declareScript      = redis.NewScript(declareLua)
	sweepTopicScript   = redis.NewScript(sweepTopicLua)
	sweepClientsScript = redis.NewScript(sweepClientsLua)
	buryScript         = redis.NewScript(buryLua)

	allScripts = []*redis.Script{
		enterScript, beatScript, registerScript, unregisterScript, joinScript, leaveScript,
		declareScript, sweepTopicScript, sweepClientsScript, buryScript,
	}
)

// scriptCall is one call of a script.
type scriptCall struct {
	script *redis.Script
	keys   []string
	args   []any
	reply  any
	err    error
}

// runScripts carries out calls in one round trip, in their order, and fills in what each returned. Those that a server did
// not know, because it has been restarted or promoted, run in a second one.
func runScripts(ctx context.Context, client *redis.Client, calls []*scriptCall) {
	unheard := pipelineScripts(ctx, client, calls)
	if len(unheard) == 0 {
		return
	}
	pipe := client.Pipeline()
	for _, s := range allScripts {
		s.Load(ctx, pipe)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		for _, c := range unheard {
			c.err = err
		}
		return
	}
	pipelineScripts(ctx, client, unheard)
}

func pipelineScripts(ctx context.Context, client *redis.Client, calls []*scriptCall) (unheard []*scriptCall) {
	pipe := client.Pipeline()
	replies := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		replies[i] = pipe.EvalSha(ctx, c.script.Hash(), c.keys, c.args...)
	}
	exec(ctx, pipe, replies)
	for i, c := range calls {
		c.reply, c.err = replies[i].Result()
		if c.err != nil && redis.HasErrorPrefix(c.err, "NOSCRIPT") {
			unheard = append(unheard, c)
		}
	}
	return unheard
}
