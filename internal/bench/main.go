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
	flag.StringVar(&o.Sink, "sink", "", "address of the receiver (for the parts)")
	flag.StringVar(&o.Dir, "dir", "", "data folder (for the parts)")
	flag.StringVar(&o.CPUProfile, "cpuprofile", "", "write a CPU profile of a part")
	flag.Parse()
	parts := map[string]func(context.Context, options) error{
		"all": all, "sink": sink, "bare": bare, "deliver": deliveries, "fill": fill, "server": server,
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
	Sink       string
	Dir        string
	CPUProfile string
}

// outcome is what a part prints as its last line.
type outcome struct {
	PerSecond float64 `json:"per_second"`
	// CPU is the processor time of the part for each, in microseconds.
	CPU    float64 `json:"cpu_us"`
	PeakMB float64 `json:"peak_mb"`
}

// all runs every measurement and prints the table.
func all(ctx context.Context, o options) error {
	fmt.Printf("%s, %d cores, %s; %d in flight, %s a run, median of %d\n\n", runtime.Version(), runtime.NumCPU(), cpuModel(), o.InFlight, o.Time, o.Rounds)
	sinkProcess, err := spawn(ctx, "sink")
	if err != nil {
		return err
	}
	defer sinkProcess.stop()
	url := sinkProcess.ready

	dir, err := os.MkdirTemp("", "ringback-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	// Loop, empty store, full store, loop, …: each of ours is compared with the mean
	// of the loops around it.
	stores := [...]string{dir + "/empty", dir + "/backlog"}
	if _, err := run(ctx, "fill", "-dir", stores[1], "-backlog", strconv.Itoa(o.Backlog)); err != nil {
		return err
	}
	var loops []float64
	var ours [len(stores)]struct{ rates, ratios, peaks []float64 }
	measure := func(role string, args ...string) (outcome, error) {
		return run(ctx, role, append(args, "-sink", url, "-time", o.Time.String(), "-in-flight", strconv.Itoa(o.InFlight))...)
	}
	for round := range o.Rounds + 1 {
		bare, err := measure("bare")
		if err != nil {
			return err
		}
		loops = append(loops, bare.PerSecond)
		for i := range stores {
			if round > 0 {
				mine := &ours[i]
				mine.ratios = append(mine.ratios, mine.rates[round-1]/((loops[round-1]+loops[round])/2))
			}
			if round == o.Rounds {
				continue
			}
			got, err := measure("deliver", "-dir", stores[i])
			if err != nil {
				return err
			}
			ours[i].rates, ours[i].peaks = append(ours[i].rates, got.PerSecond), append(ours[i].peaks, got.PeakMB)
		}
	}
	row := func(what, figure, ratio, asked, peak string) {
		fmt.Printf("%-58s %18s %8s %14s %9s\n", what, figure, ratio, asked, peak)
	}
	row("measurement", "figure", "ratio", "asked", "peak MB")
	row("bare loop: sign and POST, nothing stored", perSecond(median(loops)), "1.00", "", "")
	for i, asked := range [len(stores)]string{"≥ 0.60", "no lower"} {
		what := "deliveries, durable before and after"
		if i == 1 {
			what = fmt.Sprintf("the same with %d future retries stored", o.Backlog)
		}
		row(what, perSecond(median(ours[i].rates)), fmt.Sprintf("%.2f", median(ours[i].ratios)), asked, fmt.Sprintf("%.0f", slices.Max(ours[i].peaks)))
	}

	s, err := spawn(ctx, "server", "-dir", dir+"/server")
	if err != nil {
		return err
	}
	defer s.stop()
	lat, err := latencies(ctx, s.ready, 50, 2*o.Time)
	if err != nil {
		return err
	}
	row("job's end to first byte at the receiver, 50 jobs/s, p50", lat.text(50), "", "≤ 10 ms", "")
	row("… p99", lat.text(99), "", "≤ 50 ms", fmt.Sprintf("%.0f", peakMB(s.cmd.Process.Pid)))
	rate, err := creations(ctx, s.ready, o.InFlight, o.Time)
	if err != nil {
		return err
	}
	row("creating background interactions over HTTP, durable, run", perSecond(rate), "", "≥ 3000/s", fmt.Sprintf("%.0f", peakMB(s.cmd.Process.Pid)))
	return nil
}

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
func report(count int, took time.Duration) error {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return err
	}
	cpu := float64(used.Utime.Nano()+used.Stime.Nano()) / 1e3 / float64(max(count, 1))
	return json.NewEncoder(os.Stdout).Encode(outcome{PerSecond: float64(count) / took.Seconds(), CPU: cpu, PeakMB: peakMB(os.Getpid())})
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
