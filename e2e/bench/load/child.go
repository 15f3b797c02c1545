package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// A crowd has a process of its own: it needs as many descriptors as the server, and its memory and CPU are not the
// server's. The process reads a plan and then tasks, one at a time, and answers each with one line of JSON.

// answer is what the process says.
type answer[T any] struct {
	Value T
	Err   string `json:",omitempty"`
}

// Serve is the whole of that process: it opens the crowd that in asks for, measures as long as it is asked to, and
// returns when in ends.
func Serve(in io.Reader, out io.Writer) error {
	questions, answers := json.NewDecoder(in), json.NewEncoder(out)
	var plan Plan
	if err := questions.Decode(&plan); err != nil {
		return fmt.Errorf("the plan: %w", err)
	}
	crowd, opened, err := Open(plan)
	if err := answers.Encode(answer[Opened]{opened, text(err)}); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if err != nil {
		return err
	}
	defer crowd.Close()
	tasks, ended := make(chan Task), make(chan error, 1)
	go func() { // ends with in, or when what it says makes no sense
		for {
			var task Task
			if err := questions.Decode(&task); err != nil {
				ended <- err
				return
			}
			tasks <- task
		}
	}()
	for {
		select {
		case task := <-tasks:
			result, err := crowd.Measure(task)
			if err := answers.Encode(answer[Result]{result, text(err)}); err != nil {
				return fmt.Errorf("answer: %w", err)
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("the task: %w", err)
		default:
			if err := crowd.Idle(); err != nil {
				return err
			}
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Process is a crowd in another process.
type Process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	say *json.Encoder
	out *json.Decoder
}

// Start starts cmd, which calls Serve, and opens the crowd.
func Start(cmd *exec.Cmd, plan Plan) (*Process, Opened, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, Opened{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, Opened{}, err
	}
	if err := cmd.Start(); err != nil {
		return nil, Opened{}, err
	}
	p := &Process{cmd, in, json.NewEncoder(in), json.NewDecoder(out)}
	opened, err := ask[Opened](p, plan)
	if err != nil {
		_ = p.Close() // what it would say is known
		return nil, Opened{}, err
	}
	return p, opened, nil
}

// Measure is that of the crowd.
func (p *Process) Measure(t Task) (Result, error) { return ask[Result](p, t) }

// Close closes the crowd and waits for its process.
func (p *Process) Close() error {
	_ = p.in.Close()
	return p.cmd.Wait()
}

func ask[T any](p *Process, question any) (value T, err error) {
	if err := p.say.Encode(question); err != nil {
		return value, fmt.Errorf("the crowd's process: %w", err)
	}
	var a answer[T]
	if err := p.out.Decode(&a); err != nil {
		return value, fmt.Errorf("the crowd's process: %w", err)
	}
	if a.Err != "" {
		return value, errors.New(a.Err)
	}
	return a.Value, nil
}
