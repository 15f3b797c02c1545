package load

import (
	"fmt"
	"strconv"
)

// dialect is how a server's protocol says what the crowd has to say. The text of a message is JSON as it stands.
type dialect struct {
	connect   string // said first, and answered; "" when there is nothing to say
	subscribe func(channel string) string
	publish   func(dst []byte, number int64, channel string, text []byte) []byte
	direct    func(dst []byte, number int64, client string, text []byte) []byte
}

// Each question of the dialects is answered with a message that holds answered.
const answered = `"id":`

var dialects = map[string]dialect{
	"gows": {
		subscribe: func(channel string) string {
			return fmt.Sprintf(`{"id":"1","type":"subscribe","channel":%q}`, channel)
		},
		// Without an id: no answer is wanted.
		publish: func(dst []byte, _ int64, channel string, text []byte) []byte {
			return join(dst, `{"type":"message","channel":"`, channel, `","message":"`, string(text), `"}`)
		},
		direct: func(dst []byte, _ int64, client string, text []byte) []byte {
			return join(dst, `{"type":"direct","channel":"`, client, `","message":"`, string(text), `"}`)
		},
	},
	"centrifuge": {
		connect: `{"id":1,"connect":{}}`,
		subscribe: func(channel string) string {
			return fmt.Sprintf(`{"id":2,"subscribe":{"channel":%q}}`, channel)
		},
		publish: func(dst []byte, number int64, channel string, text []byte) []byte {
			dst = strconv.AppendInt(append(dst, `{"id":`...), 3+number, 10)
			return join(dst, `,"publish":{"channel":"`, channel, `","data":{"message":"`, string(text), `"}}}`)
		},
		direct: func(dst []byte, number int64, client string, text []byte) []byte {
			dst = strconv.AppendInt(append(dst, `{"id":`...), 3+number, 10)
			return join(dst, `,"rpc":{"method":"direct","data":{"client":"`, client, `","message":"`, string(text), `"}}}`)
		},
	},
}

func join(dst []byte, parts ...string) []byte {
	for _, part := range parts {
		dst = append(dst, part...)
	}
	return dst
}
