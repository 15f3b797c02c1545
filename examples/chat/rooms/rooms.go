// Package rooms is the chat itself: who may enter a room, who may speak, and what a room remembers. All the examples
// share it and the page; their main.go shows what is different.
package rooms

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/duxweb/go-ws/core"
)

// Lobby is the channel of the room that everybody enters first.
const Lobby = "room:lobby"

const remembered = 50 // messages of a room

// Rooms are the open rooms and what was said in them. Subscribe, Publish and Message are hooks for a core.Provider; all
// methods may be called at the same time.
type Rooms struct {
	mu     sync.Mutex                // guards all below
	past   map[string][]core.Message // every open room
	latest int64                     // time of the last message
}

// New returns three rooms in which nothing has been said.
func New() *Rooms {
	return &Rooms{past: map[string][]core.Message{Lobby: {}, "room:go": {}, "room:random": {}}}
}

// Subscribe is asked about type "subscribe": may this client enter?
func (r *Rooms) Subscribe(_ *core.Client, channel string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.past[channel] == nil {
		return core.Errorf(http.StatusForbidden, "this room is for members only")
	}
	return nil
}

// Publish is asked about type "message": what is kept is what everybody in the room receives.
func (r *Rooms) Publish(client *core.Client, message *core.Message) error {
	message.ClientID = client.ClientID
	return r.keep(message)
}

// Message gets every other type, which are an application's to define. The page asks for "history" whenever it has
// entered a room.
func (r *Rooms) Message(message *core.Message, _ *core.Client) error {
	if message.Type != "history" {
		return core.Errorf(http.StatusNotFound, "there is no type %q", message.Type)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return message.Reply(r.past[message.Channel])
}

// Push says something in a room from outside, as a REST route does.
func (r *Rooms) Push(service *core.Service, room, text string) error {
	message := &core.Message{Type: "message", Channel: "room:" + room, Message: text}
	if err := r.keep(message); err != nil {
		return err
	}
	return service.Push([]string{message.Channel}, message)
}

// keep stamps a message with a time of its own and remembers it as one of the last of its room.
func (r *Rooms) keep(message *core.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	past := r.past[message.Channel]
	if text := strings.TrimSpace(message.Message); past == nil || text == "" || len(text) > 8<<10 {
		return core.Errorf(http.StatusBadRequest, "a message needs an open room and a text of at most 8 KiB")
	}
	r.latest = max(r.latest+1, time.Now().UnixMilli())
	message.Data, message.Meta = nil, map[string]int64{"time": r.latest}
	r.past[message.Channel] = append(past[max(0, len(past)-remembered+1):], *message)
	return nil
}

var isName = regexp.MustCompile(`^[\pL\pN][\pL\pM\pN ._-]{0,23}$`)

// Name returns the name that somebody has entered, or why it is none.
func Name(entered string) (string, error) {
	if name := strings.TrimSpace(entered); isName.MatchString(name) {
		return name, nil
	}
	return "", core.Errorf(http.StatusBadRequest, "a name has 1 to 24 letters or digits")
}

// Names returns who is in a room, each once: members are connections, and one person may have several.
func Names(members []core.Member) []string {
	names := make([]string, 0, len(members)) // in JSON nobody is [], not null
	for _, member := range members {
		names = append(names, member.ClientID)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Outcome is what a REST route answers after a call that returned err.
func Outcome(err error) (status int, text string) {
	var told *core.Error
	switch {
	case err == nil:
		return http.StatusOK, "done"
	case errors.As(err, &told):
		return told.Code, told.Text
	case errors.Is(err, core.ErrOffline):
		return http.StatusNotFound, "nobody of this name is online"
	case errors.Is(err, core.ErrTooLarge):
		return http.StatusRequestEntityTooLarge, err.Error()
	}
	return http.StatusServiceUnavailable, err.Error()
}
