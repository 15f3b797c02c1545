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

// Remembered is how many messages of a room are.
const Remembered = 50

// Past is where the rooms remember what was said. Its methods may be called at the same time.
type Past interface {
	// Keep remembers a message as one of the last of its channel. It sets Meta to the time of the message, in milliseconds,
	// which no other in that channel has.
	Keep(message *core.Message) error
	// Last returns the last messages of a channel, the oldest first, never nil without an error.
	Last(channel string) ([]core.Message, error)
}

// Time is the Meta of a message in a room.
type Time struct {
	Time float64 `json:"time"`
}

// Rooms are the open rooms. Subscribe, Publish and Message are hooks for a core.Provider; all methods may be called at the
// same time.
type Rooms struct {
	past Past
}

// New returns three rooms in which nothing has been said. This process remembers what will be.
func New() *Rooms { return Over(&memory{past: map[string][]core.Message{}}) }

// Over returns the same three rooms with a past that others may share.
func Over(past Past) *Rooms { return &Rooms{past} }

func isOpen(channel string) bool {
	return slices.Contains([]string{Lobby, "room:go", "room:random"}, channel)
}

// Subscribe is asked about type "subscribe": may this client enter?
func (r *Rooms) Subscribe(_ *core.Client, channel string) error {
	if !isOpen(channel) {
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
	past := []core.Message{}
	if isOpen(message.Channel) {
		var err error
		if past, err = r.past.Last(message.Channel); err != nil {
			return err
		}
	}
	return message.Reply(past)
}

// Push says something in a room from outside, as a REST route does.
func (r *Rooms) Push(service *core.Service, room, text string) error {
	message := &core.Message{Type: "message", Channel: "room:" + room, Message: text}
	if err := r.keep(message); err != nil {
		return err
	}
	return service.Push([]string{message.Channel}, message)
}

// keep remembers what may be said.
func (r *Rooms) keep(message *core.Message) error {
	if text := strings.TrimSpace(message.Message); !isOpen(message.Channel) || text == "" || len(text) > 8<<10 {
		return core.Errorf(http.StatusBadRequest, "a message needs an open room and a text of at most 8 KiB")
	}
	message.Data = nil
	return r.past.Keep(message)
}

// memory is the past of one process.
type memory struct {
	mu     sync.Mutex // guards all below
	past   map[string][]core.Message
	latest int64 // time of the last message
}

func (m *memory) Keep(message *core.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latest = max(m.latest+1, time.Now().UnixMilli())
	message.Meta = Time{float64(m.latest)}
	past := m.past[message.Channel]
	m.past[message.Channel] = append(past[max(0, len(past)-Remembered+1):], *message)
	return nil
}

func (m *memory) Last(channel string) ([]core.Message, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]core.Message{}, m.past[channel]...), nil
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
