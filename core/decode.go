package core

import (
	"bytes"
	"encoding/json"
	"net/http"
)

// decode reads the envelope in text. With an error, m still holds what was read before, the id if possible. Nothing of
// text is retained. encoding/json checks the syntax; taking the members out by hand costs half of what its Unmarshal does,
// and every message of every client passes here.
func decode(text []byte) (m *Message, err error) {
	m = new(Message)
	if !json.Valid(text) {
		var ignored json.RawMessage
		return m, Errorf(http.StatusBadRequest, "not JSON: %w", json.Unmarshal(text, &ignored))
	}
	if start := skipSpace(text, 0); text[start] != '{' {
		return m, Errorf(http.StatusBadRequest, "not a JSON object but %s", kindOf(text[start]))
	}
	for at := skipSpace(text, 0) + 1; ; {
		at = skipSpace(text, at)
		if text[at] == '}' {
			break
		}
		var name, value []byte
		name, at = token(text, at)
		at = skipSpace(text, at) + 1 // the colon
		value, at = token(text, skipSpace(text, at))
		if wrong := m.set(name, value); wrong != nil && err == nil {
			err = wrong
		}
		if at = skipSpace(text, at); text[at] == ',' {
			at++
		}
	}
	if err == nil && m.Type == "" {
		err = Errorf(http.StatusBadRequest, `"type" is missing`)
	}
	return m, err
}

// set stores the member of that name, both being JSON. Names that are not the envelope's, "client" among them, are
// passed over; null is like absence.
func (m *Message) set(name, value []byte) error {
	if value[0] == 'n' {
		return nil
	}
	var text *string
	switch string(name) {
	case `"id"`:
		text = &m.ID
	case `"type"`:
		text = &m.Type
	case `"channel"`:
		text = &m.Channel
	case `"message"`:
		text = &m.Message
	case `"data"`:
		m.Data = json.RawMessage(bytes.Clone(value))
		return nil
	case `"meta"`:
		m.Meta = json.RawMessage(bytes.Clone(value))
		return nil
	default:
		return nil
	}
	switch {
	case value[0] != '"':
		return Errorf(http.StatusBadRequest, "%s must be a string, not %s", name, kindOf(value[0]))
	case bytes.IndexByte(value, '\\') >= 0:
		return json.Unmarshal(value, text)
	}
	*text = string(value[1 : len(value)-1])
	return nil
}

// token returns the value that begins at text[at] and where it ends; text is valid JSON.
func token(text []byte, at int) (value []byte, end int) {
	end = at
	switch text[at] {
	case '"':
		end = stringEnd(text, at)
	case '{', '[':
		for depth := 0; ; end++ {
			switch text[end] {
			case '"':
				end = stringEnd(text, end) - 1
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			if depth == 0 {
				end++
				break
			}
		}
	default:
		for end < len(text) && bytes.IndexByte([]byte(" \t\r\n,]}"), text[end]) < 0 {
			end++
		}
	}
	return text[at:end], end
}

// stringEnd returns the index behind the string that begins at text[at].
func stringEnd(text []byte, at int) int {
	for at++; text[at] != '"'; at++ {
		if text[at] == '\\' {
			at++
		}
	}
	return at + 1
}

func skipSpace(text []byte, at int) int {
	for text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r' {
		at++
	}
	return at
}

func kindOf(first byte) string {
	switch first {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a bool"
	case 'n':
		return "null"
	}
	return "a number"
}
