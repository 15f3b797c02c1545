package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"unicode/utf8"
)

// Message is the envelope, in both directions. In a message received from a client, ClientID is the sender's, stamped by
// the server, and Data and Meta hold json.RawMessage (or nil when absent): nothing is decoded twice and large numbers keep
// their digits. In a message sent, Data and Meta may be anything encoding/json takes.
type Message struct {
	ID       string `json:"id,omitempty"`
	Type     string `json:"type"`
	ClientID string `json:"client,omitempty"`
	Channel  string `json:"channel,omitempty"`
	Message  string `json:"message,omitempty"`
	Data     any    `json:"data,omitempty"`
	Meta     any    `json:"meta,omitempty"`

	reply json.RawMessage
}

// Bind decodes Data into v, as json.Unmarshal does. A failure is an error 400 when a hook returns it.
func (m *Message) Bind(v any) error {
	raw, ok := m.Data.(json.RawMessage)
	if !ok {
		var err error
		if raw, err = json.Marshal(m.Data); err != nil {
			return fmt.Errorf("gows: encode data: %w", err)
		}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return Errorf(400, "data: %w", err)
	}
	return nil
}

// Reply makes v the data of the answer that the sender gets when the hook returns nil: request and response over one
// socket. A message without an id gets no answer, and its reply goes nowhere. A second Reply replaces the first.
func (m *Message) Reply(v any) error {
	raw, err := marshal(v)
	if err != nil {
		return fmt.Errorf("gows: encode reply: %w", err)
	}
	m.reply = raw
	return nil
}

// encoded is an envelope cut where the channel goes, so that one encoding serves a push to several channels.
type encoded struct {
	head, tail []byte
	channel    string // what the payload says
}

// in returns the text for one channel; for none, the payload's own stands.
func (e encoded) in(channel string) []byte {
	if channel == "" {
		channel = e.channel
	}
	text := make([]byte, 0, len(e.head)+len(e.tail)+len(channel)+len(`,"channel":""`)+8)
	text = append(text, e.head...)
	if channel != "" {
		text = append(text, `,"channel":`...)
		text = appendString(text, channel)
	}
	return append(text, e.tail...)
}

// encode turns a payload into its envelope. What a payload is depends on its Go type alone: a Message, or a map with
// string keys and a string "type", is the envelope; anything else is the data of a message of type "message". A stamp
// replaces what the payload says of its client.
func encode(payload any, stamp string) (encoded, error) {
	switch p := payload.(type) {
	case *Message:
		if p == nil {
			return encoded{}, errors.New("gows: the payload is a nil *Message")
		}
		return encodeMessage(p, stamp)
	case Message:
		return encodeMessage(&p, stamp)
	case []byte:
		return encodeMessage(&Message{Type: "message", Data: json.RawMessage(p)}, stamp)
	}
	if fields, ok := envelopeMap(payload); ok {
		return encodeMap(fields, stamp)
	}
	return encodeMessage(&Message{Type: "message", Data: payload}, stamp)
}

func encodeMessage(m *Message, stamp string) (encoded, error) {
	head := make([]byte, 0, 256)
	head = append(head, '{')
	if m.ID != "" {
		head = append(appendString(append(head, `"id":`...), m.ID), ',')
	}
	head = appendString(append(head, `"type":`...), m.Type)
	if stamp == "" {
		stamp = m.ClientID
	}
	if stamp != "" {
		head = appendString(append(head, `,"client":`...), stamp)
	}
	cut := len(head)
	tail := head
	if m.Message != "" {
		tail = appendString(append(tail, `,"message":`...), m.Message)
	}
	var err error
	if tail, err = appendField(tail, `,"data":`, m.Data); err != nil {
		return encoded{}, err
	}
	if tail, err = appendField(tail, `,"meta":`, m.Meta); err != nil {
		return encoded{}, err
	}
	tail = append(tail, '}')
	return encoded{tail[:cut:cut], tail[cut:], m.Channel}, nil
}

// envelopeMap returns a copy of payload when it is a map with string keys that has a string "type": gin.H, echo.Map and
// fiber.Map are such maps, of types the core does not know.
func envelopeMap(payload any) (map[string]any, bool) {
	v := reflect.ValueOf(payload)
	if v.Kind() != reflect.Map || v.Type().Key().Kind() != reflect.String {
		return nil, false
	}
	fields := make(map[string]any, v.Len())
	for iter := v.MapRange(); iter.Next(); {
		fields[iter.Key().String()] = iter.Value().Interface()
	}
	_, ok := asText(fields["type"])
	return fields, ok
}

// asText returns a string, of whatever type. A json.Number is a number.
func asText(value any) (string, bool) {
	v := reflect.ValueOf(value)
	if _, number := value.(json.Number); number || v.Kind() != reflect.String {
		return "", false
	}
	return v.String(), true
}

// encodeMap encodes what envelopeMap returned, which is used up.
func encodeMap(fields map[string]any, stamp string) (encoded, error) {
	kind, _ := asText(fields["type"])
	head := appendString([]byte(`{"type":`), kind)
	channel, _ := asText(fields["channel"])
	delete(fields, "type")
	delete(fields, "channel")
	if stamp != "" {
		fields["client"] = stamp
	}
	rest, err := marshal(fields)
	if err != nil {
		return encoded{}, fmt.Errorf("gows: encode payload: %w", err)
	}
	if len(fields) == 0 {
		return encoded{head, []byte("}"), channel}, nil
	}
	rest[0] = ','
	return encoded{head, rest, channel}, nil
}

// appendField appends a JSON member unless its value is nil.
func appendField(dst []byte, name string, value any) ([]byte, error) {
	if value == nil {
		return dst, nil
	}
	text, ok := value.(json.RawMessage)
	if !ok || !json.Valid(text) || !utf8.Valid(text) {
		var err error
		if text, err = marshal(value); err != nil {
			return dst, fmt.Errorf("gows: encode payload: %w", err)
		}
	}
	return append(append(dst, name...), text...), nil
}

// marshal is json.Marshal, which passes on raw JSON that is not UTF-8: one such byte in a text frame, and all who get it
// have to close their connection (1007).
func marshal(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil || utf8.Valid(text) {
		return text, err
	}
	return bytes.ToValidUTF8(text, []byte("\uFFFD")), nil
}

// appendString appends s as a JSON string. Most strings on the wire need no escape, and those allocate nothing.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) //nolint:errchkjson // a string always encodes
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// appendReceive appends the answer to the message of that id: its data may be nil.
func appendReceive(dst []byte, id string, data []byte, unixMilli int64) []byte {
	dst = appendString(append(dst, `{"id":`...), id)
	dst = append(dst, `,"type":"receive"`...)
	if data != nil {
		dst = append(append(dst, `,"data":`...), data...)
	}
	dst = strconv.AppendInt(append(dst, `,"meta":{"time":`...), unixMilli, 10)
	return append(dst, '}', '}')
}

// appendError appends the error answer to a message; an id or channel that it does not have is left out.
func appendError(dst []byte, asked question, code int, text string) []byte {
	dst = append(dst, '{')
	if asked.id != "" {
		dst = append(appendString(append(dst, `"id":`...), asked.id), ',')
	}
	dst = strconv.AppendInt(append(dst, `"type":"error","code":`...), int64(code), 10)
	dst = appendString(append(dst, `,"message":`...), text)
	if asked.channel != "" {
		dst = appendString(append(dst, `,"channel":`...), asked.channel)
	}
	dst = appendString(append(dst, `,"meta":{"type":`...), asked.kind)
	return append(dst, '}', '}')
}
