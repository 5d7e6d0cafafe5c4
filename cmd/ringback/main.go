// Command ringback is the server and its tools: one file per command.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"ringback.dev"
	"ringback.dev/internal/app"
)

// commands is the command line.
type commands struct {
	Serve    serveCommand    `cmd:"" help:"Run the server in production: API keys, https callbacks to public addresses."`
	Dev      devCommand      `cmd:"" help:"A server on this machine for development, and its clock."`
	Demo     demoCommand     `cmd:"" help:"Show one whole round trip: job, event, signed callback, verification."`
	Verify   verifyCommand   `cmd:"" help:"Check the signature of a callback that you saved, and say why it fails."`
	Webhooks webhooksCommand `cmd:"" help:"Manage the webhooks of a server."`

	Edge    edgeCommand    `cmd:"" help:"Receive webhooks: verify, store, answer, act."`
	Listen  listenCommand  `cmd:"" help:"Forward a server's events to your receiver on this machine, as they happen."`
	Trigger triggerCommand `cmd:"" help:"Make an event of any type happen now, to try receivers."`
	Examine examineCommand `cmd:"" help:"Grade a receiver: what does it make of forged, old, doubled and broken messages?"`
	Replay  replayCommand  `cmd:"" help:"Send a recording of listen again."`

	Batches    batchesCommand    `cmd:"" help:"Run a file of requests as a batch, and get its results."`
	Videos     videosCommand     `cmd:"" help:"Have videos made, and download them."`
	Events     eventsCommand     `cmd:"" help:"See what happened, as it happens if you like."`
	Deliveries deliveriesCommand `cmd:"" help:"See what was sent and what came back; send again."`
	Jobs       jobsCommand       `cmd:"" help:"See jobs, and the story of each."`
	Models     modelsCommand     `cmd:"" help:"See the models of a server, and what each can."`
	Reconcile  reconcileCommand  `cmd:"" help:"Find what ended and was never acknowledged, and deliver it."`
	Projects   projectsCommand   `cmd:"" help:"Manage projects (operators)."`
	Keys       keysCommand       `cmd:"" help:"Manage API keys, signing keys and the master key (operators)."`

	Config  configCommand  `cmd:"" help:"Check or print the configuration."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

const description = `ringback runs long AI jobs behind the Gemini API and calls you back, signed, the moment they end.

Try it:

  ringback demo                 one round trip, explained
  ringback dev                  a server for the Gemini SDKs on this machine
  ringback serve --openai-url http://127.0.0.1:8000/v1

Every flag can be set in the environment as RINGBACK_ and its name in capitals, for example RINGBACK_LISTEN, and most in a file given with --config.`

func main() {
	app.TuneMemory()
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// streams are what a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// silent ends the program with an exit code; the command has said why.
type silent int

func (s silent) Error() string { return fmt.Sprintf("exit code %d", int(s)) }

// run is main without the process: it returns the exit code, 0 for success, 1
// for failure, 2 for wrong usage.
func run(args []string, in io.Reader, out, errw io.Writer) int {
	var c commands
	code := -1
	parser, err := kong.New(&c,
		kong.Name("ringback"), kong.Description(description), kong.UsageOnError(),
		kong.DefaultEnvars("RINGBACK"), kong.Configuration(loadFile),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}), kong.Help(help),
		kong.Writers(out, errw), kong.Exit(func(n int) { code = n; panic(exit{}) }),
	)
	if err != nil {
		fmt.Fprintln(errw, "ringback:", err)
		return 2
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	var selected *kong.Context
	if func() (exited bool) {
		defer func() {
			if p := recover(); p != nil {
				if _, ok := p.(exit); !ok {
					panic(p)
				}
				exited = true
			}
		}()
		selected, err = parser.Parse(args)
		return false
	}() {
		return code
	}
	if err != nil {
		fmt.Fprintln(errw, "ringback:", oneLine(err))
		return 2
	}
	// The first signal stops in good order, the second at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	selected.BindTo(ctx, (*context.Context)(nil))
	err = selected.Run(&streams{in: in, out: out, err: errw})
	var quiet silent
	switch {
	case err == nil:
		return 0
	case errors.As(err, &quiet):
		return int(quiet)
	}
	fmt.Fprintln(errw, "ringback:", oneLine(err))
	return 1
}

// help prints the help of a command; of one that need not be named, such as run
// of dev, when the command above it is asked.
func help(o kong.HelpOptions, c *kong.Context) error {
	if n := c.Selected(); n != nil && n.DefaultCmd != nil {
		c.Path = append(c.Path, &kong.Path{Parent: n, Command: n.DefaultCmd})
	}
	return kong.DefaultHelpPrinter(o, c)
}

// exit unwinds kong when it wants the program to end, after --help.
type exit struct{}

// oneLine is an error as one line for people.
func oneLine(err error) string {
	var e *ringback.Error
	text := err.Error()
	if errors.As(err, &e) && e.Cause == nil {
		text = e.Message
	}
	return strings.Join(strings.Fields(text), " ")
}
