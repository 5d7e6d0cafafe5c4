package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// progress shows how far work is: as a bar on a terminal, as a line now and then
// elsewhere.
type progress struct {
	w     io.Writer
	what  string
	bytes bool

	bars *mpb.Progress
	bar  *mpb.Bar
	note string // Beside the bar, such as "3 failed".

	begun, told time.Time
	first, have int64 // What was done at the beginning, and now.
	total       int64
}

// tellEvery is how often a line is printed where there is no terminal.
const tellEvery = 5 * time.Second

func newProgress(w io.Writer, what string, bytes bool, now time.Time) *progress {
	p := &progress{w: w, what: what, bytes: bytes, begun: now, told: now}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(64))
	}
	return p
}

// set tells how much of how much is done.
func (p *progress) set(have, total int64, note string, now time.Time) {
	if p.total == 0 {
		p.begun, p.first = now, have
	}
	p.have, p.total, p.note = have, total, note
	if p.bars == nil {
		if now.Sub(p.told) >= tellEvery {
			p.told = now
			fmt.Fprintln(p.w, p.line(now))
		}
		return
	}
	if p.bar == nil && total > 0 {
		p.bar = p.bars.New(total, mpb.BarStyle().Lbound("").Rbound("").Filler("█").Tip("█").Padding("░"),
			mpb.PrependDecorators(decor.Name(p.what, decor.WC{C: decor.DindentRight | decor.DextraSpace})),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + p.figures(time.Now()) })))
	}
	if p.bar != nil {
		p.bar.SetCurrent(have)
	}
}

// line is the state in words.
func (p *progress) line(now time.Time) string {
	if p.total == 0 {
		return p.what + "  not begun"
	}
	return fmt.Sprintf("%s  %s", p.what, p.figures(now))
}

func (p *progress) figures(now time.Time) string {
	text := fmt.Sprintf("%s of %s", p.count(p.have), p.count(p.total))
	took := now.Sub(p.begun)
	if rate := float64(p.have-p.first) / took.Seconds(); took > 0 && rate > 0 {
		text += fmt.Sprintf("  %s/s", p.count(int64(rate)))
		if left := p.total - p.have; left > 0 {
			text += "  " + (time.Duration(float64(left)/rate) * time.Second).Round(time.Second).String() + " left"
		}
	}
	if p.note != "" {
		text += "  " + p.note
	}
	return text
}

func (p *progress) count(n int64) string {
	switch {
	case !p.bytes:
		return thousands(n)
	case p.total < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// thousands prints 1234567 as 1,234,567.
func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// end leaves the bar as it is, and prints the last line elsewhere.
func (p *progress) end(now time.Time) {
	if p.bars == nil {
		fmt.Fprintln(p.w, p.line(now))
		return
	}
	if p.bar != nil && !p.bar.Completed() {
		p.bar.Abort(false)
	}
	p.bars.Wait()
}
