// Command bench measures ringback against a bare HTTP loop and prints a table
// with ratios (make bench). Machines are noisy, so both sides run in turn,
// several times, and the medians are compared; no figure fails the run.
//
// Each part is a process of its own, as in real life: the receiver of callbacks,
// the loop or the server under test. They all share the machine's cores.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	role := "all"
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		role = os.Args[1]
		os.Args = append(os.Args[:1], os.Args[2:]...)
	}
	var o options
	flag.DurationVar(&o.Time, "time", 4*time.Second, "how long each measurement runs")
	flag.IntVar(&o.Rounds, "rounds", 5, "how often the two sides run in turn")
	flag.IntVar(&o.Backlog, "backlog", 1_000_000, "future retries in the store for the second part")
	flag.IntVar(&o.InFlight, "in-flight", 64, "requests under way at once")
	flag.StringVar(&o.Scheme, "scheme", "", "signature: v1, v1a or jwt (for the parts)")
	flag.BoolVar(&o.Troubled, "troubled", false, "with the targets that make trouble (for the parts)")
	flag.BoolVar(&o.Acting, "acting", false, "with an action about each event (for the parts)")
	flag.IntVar(&o.Rows, "rows", 100_000, "rows of a batch; one of a tenth and one of ten times as many are run, too")
	flag.StringVar(&o.Model, "model", "", "address of the model server (for the parts)")
	flag.StringVar(&o.Only, "only", "", "one group of measurements: engine, server, targets, signatures, replay, batches, upstream, crowd, files, streams, tokens or inbox")
	flag.StringVar(&o.Scenario, "scenario", "", "scenario of the emulator (for the parts)")
	flag.StringVar(&o.Secret, "secret", "", "secret that signs (for the parts)")
	flag.StringVar(&o.Sink, "sink", "", "address of the receiver (for the parts)")
	flag.StringVar(&o.Dir, "dir", "", "data folder (for the parts)")
	flag.StringVar(&o.CPUProfile, "cpuprofile", "", "write a CPU profile of a part")
	flag.Parse()
	parts := map[string]func(context.Context, options) error{
		"all": all, "sink": sink, "bare": bare, "deliver": deliveries, "fill": fill, "server": server,
		"hanging": hanging, "uneven": uneven, "sign": sign, "replay": replay,
		"model": model, "ask": ask, "disk": disk, "speaker": speaker,
		"receiver": receiver, "edge": edge, "steady": steady,
	}
	part := parts[role]
	if part == nil {
		fmt.Fprintln(os.Stderr, "bench: unknown part", role)
		os.Exit(2)
	}
	if err := part(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	Time       time.Duration
	Rounds     int
	Backlog    int
	InFlight   int
	Scheme     string
	Troubled   bool
	Acting     bool
	Rows       int
	Model      string
	Scenario   string
	Only       string
	Sink       string
	Secret     string
	Dir        string
	CPUProfile string
}

// outcome is what a part prints as its last line.
type outcome struct {
	PerSecond float64 `json:"per_second"`
	// CPU is the processor time of the part for each, in microseconds.
	CPU    float64 `json:"cpu_us"`
	PeakMB float64 `json:"peak_mb"`
	// P99 is the time from an event's birth to its recorded delivery, in ms.
	P99 float64 `json:"p99_ms,omitempty"`
}

// bench is a run of all measurements.
type bench struct {
	options
	sink, dir string
}

// all runs every measurement and prints the table.
func all(ctx context.Context, o options) error {
	fmt.Printf("%s, %d cores, %s; %d in flight, %s a run, median of %d\n\n", runtime.Version(), runtime.NumCPU(), cpuModel(), o.InFlight, o.Time, o.Rounds)
	sinkProcess, err := spawn(ctx, "sink")
	if err != nil {
		return err
	}
	defer sinkProcess.stop()
	dir, err := os.MkdirTemp("", "ringback-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{o, sinkProcess.ready, dir}
	row("measurement", "figure", "ratio", "asked", "peak MB")
	for _, group := range []struct {
		name    string
		measure func(context.Context) error
	}{{"engine", b.engine}, {"server", b.server}, {"targets", b.targets}, {"signatures", b.signatures}, {"replay", b.replay}, {"batches", b.batches}, {"upstream", b.upstream}, {"crowd", b.crowd}, {"files", b.files},
		{"streams", b.streams}, {"tokens", b.tokens}, {"inbox", b.inbox}} {
		if o.Only == "" || o.Only == group.name {
			if err := group.measure(ctx); err != nil {
				return fmt.Errorf("%s: %w", group.name, err)
			}
		}
	}
	return nil
}

func row(what, figure, ratio, asked, peak string) {
	fmt.Printf("%-62s %14s %8s %12s %9s\n", what, figure, ratio, asked, peak)
}

// part runs a part to its end with the common options.
func (b *bench) part(ctx context.Context, role string, args ...string) (outcome, error) {
	return run(ctx, role, append(args, "-sink", b.sink, "-time", b.Time.String(), "-in-flight", strconv.Itoa(b.InFlight))...)
}

// series are the figures of one side over the rounds.
type series struct{ rates, ratios, peaks, p99s []float64 }

func (s *series) add(o outcome) {
	s.rates, s.peaks, s.p99s = append(s.rates, o.PerSecond), append(s.peaks, o.PeakMB), append(s.p99s, o.P99)
}

func (s *series) peak() string { return fmt.Sprintf("%.0f", slices.Max(s.peaks)) }

// engine compares deliveries with the loop. Loop, empty store, full store, loop,
// …: each of ours is compared with the mean of the loops around it.
func (b *bench) engine(ctx context.Context) error {
	stores := [...]string{b.dir + "/empty", b.dir + "/backlog"}
	if _, err := run(ctx, "fill", "-dir", stores[1], "-backlog", strconv.Itoa(b.Backlog)); err != nil {
		return err
	}
	var loops []float64
	var ours [len(stores)]series
	for round := range b.Rounds + 1 {
		bare, err := b.part(ctx, "bare")
		if err != nil {
			return err
		}
		loops = append(loops, bare.PerSecond)
		for i := range stores {
			if round > 0 {
				mine := &ours[i]
				mine.ratios = append(mine.ratios, mine.rates[round-1]/((loops[round-1]+loops[round])/2))
			}
			if round == b.Rounds {
				continue
			}
			got, err := b.part(ctx, "deliver", "-dir", stores[i])
			if err != nil {
				return err
			}
			ours[i].add(got)
		}
	}
	row("bare loop: sign and POST, nothing stored", perSecond(median(loops)), "1.00", "", "")
	for i, asked := range [len(stores)]string{"≥ 0.60", "no lower"} {
		what := "deliveries, durable before and after"
		if i == 1 {
			what = fmt.Sprintf("the same with %d future retries stored", b.Backlog)
		}
		row(what, perSecond(median(ours[i].rates)), ratio(median(ours[i].ratios)), asked, ours[i].peak())
	}
	return nil
}

// server measures a whole server from outside.
func (b *bench) server(ctx context.Context) error {
	s, err := spawn(ctx, "server", "-dir", b.dir+"/server")
	if err != nil {
		return err
	}
	defer s.stop()
	lat, err := latencies(ctx, s.ready, 50, 2*b.Time)
	if err != nil {
		return err
	}
	row("job's end to first byte at the receiver, 50 jobs/s, p50", lat.text(50), "", "≤ 10 ms", "")
	row("… p99", lat.text(99), "", "≤ 50 ms", fmt.Sprintf("%.0f", peakMB(s.cmd.Process.Pid)))
	rate, err := creations(ctx, s.ready, b.InFlight, b.Time)
	if err != nil {
		return err
	}
	row("creating background interactions over HTTP, durable, run", perSecond(rate), "", "≥ 3000/s", fmt.Sprintf("%.0f", peakMB(s.cmd.Process.Pid)))
	return nil
}

// targets measures what some targets' trouble costs the others. The runs with
// and without it alternate.
func (b *bench) targets(ctx context.Context) error {
	for _, x := range []struct{ role, what, rateAsked, p99Asked string }{
		{"hanging", "45 healthy targets, with 5 beside them that never answer", "≥ 0.90", "≤ 1.50"},
		{"uneven", "999 quiet targets, 2000/s more to one, not to 500 others", "", "≈ 1"},
	} {
		var calm, troubled series
		var rates, p99s []float64
		for round := range b.Rounds {
			for _, t := range []bool{round%2 == 0, round%2 != 0} { // Neither side is always first.
				got, err := b.part(ctx, x.role, "-dir", fmt.Sprintf("%s/%s-%d-%v", b.dir, x.role, round, t), fmt.Sprintf("-troubled=%v", t))
				if err != nil {
					return err
				}
				if t {
					troubled.add(got)
				} else {
					calm.add(got)
				}
			}
			rates = append(rates, troubled.rates[round]/calm.rates[round])
			p99s = append(p99s, troubled.p99s[round]/calm.p99s[round])
		}
		row(x.what+", rate", perSecond(median(troubled.rates)), ratio(median(rates)), x.rateAsked, troubled.peak())
		row("… p99 from birth to record", fmt.Sprintf("%.1f ms", median(troubled.p99s)), ratio(median(p99s)), x.p99Asked, "")
	}
	return nil
}

// signatures compares the schemes.
func (b *bench) signatures(ctx context.Context) error {
	var alone, token, v1, v1a series
	var tokens, asymmetric []float64
	for round := range b.Rounds {
		for _, x := range []struct {
			to   *series
			role string
			args []string
		}{
			{&alone, "sign", nil}, {&token, "deliver", []string{"-scheme", "jwt"}},
			{&v1, "deliver", []string{"-scheme", "v1"}}, {&v1a, "deliver", []string{"-scheme", "v1a"}},
		} {
			dir := strings.Join(append([]string{b.dir + "/sign", strconv.Itoa(round)}, x.args...), "-")
			got, err := b.part(ctx, x.role, append(x.args, "-dir", dir)...)
			if err != nil {
				return err
			}
			x.to.add(got)
		}
		tokens = append(tokens, token.rates[round]/alone.rates[round])
		asymmetric = append(asymmetric, v1a.rates[round]/v1.rates[round])
	}
	row("RS256 signing alone", perSecond(median(alone.rates)), "1.00", "", "")
	row("deliveries signed with RS256, to per-request addresses", perSecond(median(token.rates)), ratio(median(tokens)), "≥ 0.80", token.peak())
	row("deliveries signed with v1 (HMAC)", perSecond(median(v1.rates)), "1.00", "", v1.peak())
	row("deliveries signed with v1a (Ed25519)", perSecond(median(v1a.rates)), ratio(median(asymmetric)), "≥ 0.85", v1a.peak())
	return nil
}

// replay measures sending many events again.
func (b *bench) replay(ctx context.Context) error {
	got, err := b.part(ctx, "replay", "-dir", b.dir+"/replay", "-backlog", strconv.Itoa(min(b.Backlog, 100_000)))
	if err != nil {
		return err
	}
	row(fmt.Sprintf("replay of %d events, all delivered again", min(b.Backlog, 100_000)), perSecond(got.PerSecond), "", "bounded", fmt.Sprintf("%.0f", got.PeakMB))
	return nil
}

func ratio(v float64) string { return fmt.Sprintf("%.2f", v) }

func perSecond(v float64) string { return fmt.Sprintf("%.0f/s", v) }

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// part is a process of this program.
type part struct {
	cmd   *exec.Cmd
	in    io.Closer
	ready string // The first line that it printed.
	out   *bufio.Scanner
}

// spawn starts a part, which ends when its standard input does.
func spawn(ctx context.Context, role string, args ...string) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &part{cmd: exec.CommandContext(ctx, self, append([]string{role}, args...)...)}
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.in = in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	if !p.out.Scan() {
		return nil, fmt.Errorf("%s ended early: %w", role, p.cmd.Wait())
	}
	p.ready = p.out.Text()
	return p, nil
}

func (p *part) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait() // Its figures have been read.
}

// run runs a part to its end and reads its outcome.
func run(ctx context.Context, role string, args ...string) (outcome, error) {
	var o outcome
	p, err := spawn(ctx, role, args...)
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal([]byte(p.ready), &o); err != nil {
		return o, fmt.Errorf("%s printed %q: %w", role, p.ready, err)
	}
	p.stop()
	return o, nil
}

// report prints a part's outcome.
func report(count int, took time.Duration) error { return reportP99(count, took, 0) }

func reportP99(count int, took time.Duration, p99 float64) error {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return err
	}
	cpu := float64(used.Utime.Nano()+used.Stime.Nano()) / 1e3 / float64(max(count, 1))
	return json.NewEncoder(os.Stdout).Encode(outcome{PerSecond: float64(count) / took.Seconds(), CPU: cpu, PeakMB: peakMB(os.Getpid()), P99: p99})
}

// peakMB is the most memory that a process has had resident.
func peakMB(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err == nil {
				return kb / 1024
			}
		}
	}
	return 0
}

func cpuModel() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), ":"))
		}
	}
	return runtime.GOARCH
}
