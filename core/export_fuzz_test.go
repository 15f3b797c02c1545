package core

// The answers, for their fuzzer.

func AppendError(id, kind, channel string, code int, text string) []byte {
	return appendError(nil, question{id, kind, channel}, code, text)
}

func AppendReceive(id string, data []byte) []byte { return appendReceive(nil, id, data, 1) }

func AppendPong(id string) []byte { return appendPong(nil, id) }

func AppendString(s string) []byte { return appendString(nil, s) }

func GapText(channel string) []byte { return gapText(channel) }

func Marshal(v any) ([]byte, error) { return marshal(v) }
