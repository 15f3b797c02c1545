package drivertest

import (
	"strings"

	"github.com/duxweb/go-ws/core"
)

// oddTopics returns topics whose names mean something to some backend, or become equal when they are joined carelessly.
func oddTopics() []core.Topic {
	var topics []core.Topic
	for _, channel := range []string{
		"room", "Room", "room ", " room", "a room", "réunion", "频道", "🙂",
		"*", "**", "r*m", "?", "r??m", "[r]oom", "[a-z]", "[^r]oom", "[", "]", `\`, `\*`, `\\`, "^", "$",
		"{", "}", "{}", "{room}", "{a}b{c}", ":", "room:1", "room/1", "room.1", "room.*", "room.>", "room,1", "room|1", "room#1",
		"#", "+", "-", "--", "%", "%20", "%s", "'", `"`, "`", "<", "&", ";", "=", "@", "!", "0", "00", "nil", "null",
		strings.Repeat("n", 200), strings.Repeat("é", 100),
	} {
		topics = append(topics, core.Topic{App: "app", Channel: channel})
	}
	for _, app := range []string{
		"", "App", "app ", "an app", "application", "应用", "*", "?", "[a]", `\`, "{app}", "{", ":", "app:room", "/", "%",
	} {
		topics = append(topics, core.Topic{App: app, Channel: "room"}, core.Topic{App: app})
	}
	return append(topics,
		core.Topic{App: "a:b", Channel: "c"}, core.Topic{App: "a", Channel: "b:c"}, core.Topic{App: "a:b:c"}, core.Topic{Channel: "a:b:c"},
		core.Topic{App: "a", Channel: ":b"}, core.Topic{App: "a:", Channel: "b"},
		core.Topic{App: "ab", Channel: "c"}, core.Topic{App: "a", Channel: "bc"}, core.Topic{App: "abc"}, core.Topic{Channel: "abc"},
		core.Topic{App: "a}{b", Channel: "c"}, core.Topic{App: "a", Channel: "b}{c"},
		core.Topic{App: "a b", Channel: "c"}, core.Topic{App: "a", Channel: "b c"},
	)
}

// decoys are topics that some of the odd ones match as patterns.
var decoys = []core.Topic{
	{App: "app", Channel: "roam"},
	{App: "app", Channel: "x"},
	{App: "app", Channel: "boom"},
	{App: "app", Channel: "room.2"},
	{App: "anything", Channel: "room"},
	{App: "b", Channel: "room"},
}
