package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// command is an exec action.
type command struct {
	program string
	args    []*template
	dir     string
	env     []variable
	pass    []string
}

type variable struct {
	name string
	text *template
}

// passed are the variables that every command sees.
var passed = []string{"PATH", "HOME", "LANG", "TZ", "TMPDIR"}

// gaveUp is the exit code with which a command says that another attempt would
// fail as well (as of qmail-command).
const gaveUp = 100

// outputKept is how much is kept of the end of a command's output.
const outputKept = 2 << 10

func (k *kit) exec(key string, c *Exec) doer {
	x := &command{dir: c.Dir, pass: append(slices.Clone(passed), c.PassEnv...)}
	if len(c.Command) == 0 || c.Command[0] == "" {
		k.at(key+".command", "it is required: the program and its arguments, for example [/usr/local/bin/on-event, \"{{ data.id }}\"]")
		return x
	}
	for i, text := range c.Command {
		x.args = append(x.args, k.text(fmt.Sprintf("%s.command[%d]", key, i), text))
	}
	if !x.args[0].fixed() {
		k.at(key+".command[0]", "which program is run must not depend on the event")
		return x
	}
	x.program = c.Command[0]
	if c.Dir != "" && strings.Contains(x.program, "/") && !filepath.IsAbs(x.program) {
		// It is run from its folder, so it is looked for there.
		if path, err := filepath.Abs(filepath.Join(c.Dir, x.program)); err == nil {
			x.program = path
		}
	}
	if path, err := exec.LookPath(x.program); err != nil {
		k.at(key+".command[0]", "%s can't be run: %v", x.program, errors.Unwrap(err))
	} else {
		x.program = path
	}
	if c.Dir != "" {
		if info, err := os.Stat(c.Dir); err != nil || !info.IsDir() {
			k.at(key+".dir", "%s is not a folder", c.Dir)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if strings.ContainsAny(name, "=\x00") || name == "" {
			k.at(key+".env."+name, "%q is not the name of a variable", name)
		}
		x.env = append(x.env, variable{name, k.text(key+".env."+name, c.Env[name])})
	}
	return x
}

func (x *command) String() string {
	var b strings.Builder
	b.WriteString("run")
	for _, a := range x.args {
		b.WriteString(" " + a.source)
	}
	return b.String()
}

func (x *command) do(ctx context.Context, t *task) result {
	var args []string
	for i, a := range x.args[1:] {
		text, err := a.render(t.Event, nil)
		if err != nil {
			return unfit(fmt.Errorf("command[%d]: %w", i+1, err))
		}
		if strings.Contains(text, "\x00") {
			return unfit(fmt.Errorf("command[%d]: it holds a zero byte", i+1))
		}
		args = append(args, text)
	}
	env, err := x.environment(t)
	if err != nil {
		return unfit(err)
	}
	said := &tail{limit: outputKept}
	cmd := exec.CommandContext(ctx, x.program, args...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = x.dir, env, bytes.NewReader(t.Body), said, said
	// A child of the command may hold its output open; it is not waited for.
	cmd.WaitDelay = 2 * time.Second
	err = runGroup(cmd)
	var exited *exec.ExitError
	last := excerpt(said.kept)
	if last != "" {
		last = ": " + last
	}
	switch {
	case err == nil:
		return success("exit code 0")
	case ctx.Err() != nil:
		return failure(timedOut, "it did not end in time and was killed%s", last)
	case errors.As(err, &exited) && exited.ExitCode() == gaveUp:
		return failure(refused, "exit code %d%s", gaveUp, last)
	case errors.As(err, &exited) && exited.ExitCode() >= 0:
		return failure(failed, "exit code %d%s", exited.ExitCode(), last)
	case errors.As(err, &exited):
		return failure(failed, "%v%s", exited, last)
	case errors.Is(err, exec.ErrWaitDelay):
		return success("exit code 0; what it left running was killed")
	}
	return failure(failed, "it can't be run: %v", err)
}

// environment is what the command sees: not the edge's secrets.
func (x *command) environment(t *task) ([]string, error) {
	var env []string
	for _, name := range x.pass {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	for _, v := range [...]struct{ name, value string }{{"ID", t.ID}, {"TYPE", t.Type}, {"SOURCE", t.Source}, {"ACTION", t.action}, {"ATTEMPT", strconv.Itoa(t.number)}} {
		env = append(env, "RINGBACK_EVENT_"+v.name+"="+strings.ReplaceAll(v.value, "\x00", ""))
	}
	for _, v := range x.env {
		text, err := v.text.render(t.Event, nil)
		if err == nil && strings.Contains(text, "\x00") {
			err = errors.New("it holds a zero byte")
		}
		if err != nil {
			return nil, fmt.Errorf("env.%s: %w", v.name, err)
		}
		env = append(env, v.name+"="+text)
	}
	return env, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	kept  []byte
	limit int
}

func (t *tail) Write(b []byte) (int, error) {
	t.kept = append(t.kept, b[max(len(b)-t.limit, 0):]...)
	if over := len(t.kept) - t.limit; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(b), nil
}
