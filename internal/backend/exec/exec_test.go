//go:build unix

package exec_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/backendtest"
	"ringback.dev/internal/backend/exec"
	"ringback.dev/internal/genai"
)

// role is the variable by which this binary plays another part than the tests.
const role = "EXEC_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "model":
		model()
	case "server":
		serve()
	default:
		adoptOrphans()
		goleak.VerifyTestMain(m)
	}
}

// say prints a line of the protocol.
func say(line any) {
	data, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", data)
}

// hang waits for ever.
func hang() {
	never := make(chan os.Signal, 1)
	signal.Notify(never, syscall.SIGUSR1)
	<-never
}

type object = map[string]any

// model is a command that behaves as the suite asks.
func model() {
	var q struct {
		Kind, Model string
		Request     genai.GenerateContentRequest
	}
	if err := json.NewDecoder(os.Stdin).Decode(&q); err != nil || q.Kind != "generate" {
		say(object{"type": "error", "kind": "invalid_request", "message": fmt.Sprint(q.Kind, err)})
		return
	}
	turns := q.Request.Contents
	last := turns[len(turns)-1].Parts[0]
	switch {
	case q.Model == "fail":
		say(object{"type": "error", "kind": "unavailable", "message": "not today"})
		return
	case q.Model == "hang":
		hang()
	case q.Model == "call" && last.FunctionResponse == nil:
		say(object{"type": "result", "response": object{"candidates": []object{{"content": object{"parts": []object{
			{"functionCall": object{"name": "get_weather", "args": object{"city": "Paris"}}}}}}}}})
		return
	}
	text, reason := fmt.Sprintf("turn %d: ", len(turns)), "STOP"
	if s := q.Request.SystemInstruction; s != nil {
		text += *s.Parts[0].Text + " "
	}
	if last.FunctionResponse != nil {
		text += string(last.FunctionResponse.Response)
	} else {
		text += *last.Text
	}
	if g := q.Request.GenerationConfig; g != nil && g.ResponseJSONSchema != nil {
		text = `{"name":"Ada"}`
	} else if g != nil && g.MaxOutputTokens != nil {
		text, reason = text[:4**g.MaxOutputTokens], "MAX_TOKENS"
	}
	for _, word := range strings.SplitAfter(text, " ") {
		say(object{"type": "chunk", "text": word})
	}
	say(object{"type": "result", "response": object{"candidates": []object{{"finishReason": reason}},
		"usageMetadata": object{"promptTokenCount": 7, "candidatesTokenCount": 5}}})
}

// play returns a back-end whose command is this binary in another role.
func play(t *testing.T, part string) *exec.Backend {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return backEnd(t, exec.Config{Command: []string{self}, Env: map[string]string{role: part}})
}

func TestSuite(t *testing.T) { backendtest.Run(t, play(t, "model")) }

// backEnd makes a back-end with a folder that must be empty when the test is over.
func backEnd(t *testing.T, c exec.Config) *exec.Backend {
	t.Helper()
	c.Temp = filepath.Join(t.TempDir(), "jobs")
	b, err := exec.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := filepath.Glob(filepath.Join(c.Temp, "*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return b
}

// shell returns a back-end that runs a script; the rest of its configuration is c.
func shell(t *testing.T, script string, c exec.Config) *exec.Backend {
	t.Helper()
	c.Command = []string{"sh", "-c", script}
	return backEnd(t, c)
}

func ask(text string) *backend.Request {
	return &backend.Request{Model: "m", Body: &genai.GenerateContentRequest{Contents: []genai.Content{{Role: "user", Parts: []genai.Part{genai.TextPart(text)}}}}}
}

// output is where videos go in tests.
type output struct {
	mu       sync.Mutex
	videos   []string // "type content", of those that were closed.
	notes    []string
	progress []int
	// told, if set, is called at each progress.
	told func()
	// fail, if set, is the error of every Note.
	fail error
}

type video struct {
	bytes.Buffer
	out  *output
	mime string
}

func (v *video) Close() error {
	v.out.mu.Lock()
	defer v.out.mu.Unlock()
	v.out.videos = append(v.out.videos, v.mime+" "+v.String())
	return nil
}

func (o *output) Create(_ context.Context, mimeType string) (io.WriteCloser, error) {
	return &video{out: o, mime: mimeType}, nil
}

func (o *output) Note(_ context.Context, checkpoint []byte) error {
	o.notes = append(o.notes, string(checkpoint))
	return o.fail
}

func (o *output) Progress(percent int) {
	o.progress = append(o.progress, percent)
	if o.told != nil {
		o.told()
	}
}

// said is the text of an answer.
func said(r *genai.GenerateContentResponse) string {
	var all strings.Builder
	for _, c := range r.Candidates {
		for _, p := range c.Content.Parts {
			if p.Text != nil {
				all.WriteString(*p.Text)
			}
		}
	}
	return all.String()
}

// TestVideo: a whole job, with all that a request can have.
func TestVideo(t *testing.T) {
	b := shell(t, `
		read -r q
		printf '%s' "$q" > output/request.mp4
		cat input/image.png input/last_frame.jpg input/video.mp4 input/reference_0 > output/media.webm
		ln -s media.webm output/link
		pwd > output/where
		echo '{"type":"progress","percent":12.9,"message":"sorting"}'
		echo '{"type":"checkpoint","state":{"id": 7}}'
		echo '{"type":"gossip","message":{"unknown":"types may hold anything"}}'
		echo
		echo '{"type":"progress","percent":1e9}'
		echo "{\"type\":\"result\",\"files\":[{\"path\":\"request.mp4\"},{\"path\":\"$PWD/output/media.webm\"},{\"path\":\"./link\",\"mime_type\":\"video/x-mine\"}],
			\"filtered\":{\"count\":1,\"reasons\":[\"a hat\"]}}" | tr -d '\n\t'
	`, exec.Config{})
	blob := func(mimeType, data string) *genai.Blob { return &genai.Blob{MimeType: mimeType, Data: data} }
	yes, seed := true, int64(5)
	out := new(output)
	res, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Model: "painter", Prompt: "a cat", NegativePrompt: "a dog",
		Image: blob("image/png", "Zmlyc3Q="), LastFrame: blob("image/jpeg", "bGFzdA=="), Video: blob("video/mp4", "bW92aWU="),
		References: []backend.VideoReference{{Image: blob("image/x-odd", "cmVm"), Type: "ASSET"}},
		Count:      4, DurationSeconds: 8, AspectRatio: "9:16", Resolution: "720p", PersonGeneration: "allow_all", EnhancePrompt: &yes, Seed: &seed,
		Checkpoint: []byte(`{"id":6}`)}, out)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&backend.VideoResult{Filtered: 1, FilteredReasons: []string{"a hat"}}, res); d != "" {
		t.Error(d)
	}
	if len(out.videos) != 3 || out.videos[1] != "video/webm firstlastmovieref" || out.videos[2] != "video/x-mine firstlastmovieref" {
		t.Fatalf("got %q", out.videos)
	}
	if d := cmp.Diff([]int{12, 100}, out.progress); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{`{"id": 7}`}, out.notes); d != "" {
		t.Error(d)
	}
	var got struct {
		OutputDir string `json:"output_dir"`
	}
	request, ok := strings.CutPrefix(out.videos[0], "video/mp4 ")
	if err := json.Unmarshal([]byte(request), &got); err != nil || !ok {
		t.Fatalf("the command got %q, %v", request, err)
	}
	in := filepath.Join(filepath.Dir(got.OutputDir), "input")
	want := strings.ReplaceAll(`{"kind":"video","model":"painter","request":{"prompt":"a cat","negative_prompt":"a dog",`+
		`"image":{"path":"IN/image.png","mime_type":"image/png"},"last_frame":{"path":"IN/last_frame.jpg","mime_type":"image/jpeg"},`+
		`"video":{"path":"IN/video.mp4","mime_type":"video/mp4"},"references":[{"path":"IN/reference_0","mime_type":"image/x-odd","type":"ASSET"}],`+
		`"count":4,"duration_seconds":8,"aspect_ratio":"9:16","resolution":"720p","person_generation":"allow_all","enhance_prompt":true,"seed":5},`+
		`"output_dir":"`+got.OutputDir+`","checkpoint":{"id":6}}`, "IN", in)
	if d := cmp.Diff(want, request); d != "" {
		t.Error(d)
	}
}

// TestOutcomes: what a command prints and how it ends decide what comes of a job.
func TestOutcomes(t *testing.T) {
	const good = `echo '{"type":"result","response":{"candidates":[{"content":{"parts":[{"text":"good"}]}}]}}'; `
	for name, c := range map[string]struct {
		script  string
		kind    backend.Kind // Empty: it is well, and says want.
		want    string       // Within the message.
		cause   string       // Within the cause.
		wait    time.Duration
		secrets string // Not in the message.
	}{
		"good":                      {script: good, want: "good"},
		"without reading its input": {script: `exec 0<&-; ` + good, want: "good"},
		"chunks":                    {script: `echo '{"type":"chunk","text":"a"}'; echo '{"type":"chunk","text":"b"}'; echo '{"type":"result"}'`, want: "ab"},
		"chunks, then more":         {script: `echo '{"type":"chunk","text":"a"}'; ` + good, want: "agood"},
		"no line end":               {script: `printf '{"type":"chunk","text":"a"}\n{"type":"result"}'`, want: "a"},
		"goes on after its result":  {script: good + `exec sleep 1000`, want: "good"},
		"leaves a child behind":     {script: good + `sleep 1000 &`, want: "good"},
		"ignores SIGTERM after all": {script: `trap '' TERM; ` + good + `while :; do sleep 1000; done`, want: "good"},

		"exit code":            {script: `echo secret 1>&2; exit 3`, kind: backend.Internal, want: "the command failed", cause: "exit status 3; it wrote: secret", secrets: "secret"},
		"exit code at the end": {script: good + `exit 1`, kind: backend.Internal, want: "the command failed", cause: "exit status 1"},
		"killed":               {script: `kill -9 $$`, kind: backend.Internal, want: "the command failed", cause: "signal: killed"},
		"much on stderr":       {script: `yes x | head -c 100000 1>&2; echo last 1>&2; exit 1`, kind: backend.Internal, want: "the command failed", cause: "last"},
		"nothing":              {script: ``, kind: backend.Internal, want: "the command ended without a result"},
		"only a chunk":         {script: `echo '{"type":"chunk","text":"a"}'`, kind: backend.Internal, want: "the command ended without a result"},
		"empty result":         {script: `echo '{"type":"result"}'`, kind: backend.Internal, want: "no response with candidates"},
		"odd result":           {script: `echo '{"type":"result","response":{"candidates":7}}'`, kind: backend.Internal, want: "not an answer", cause: "candidates: expected"},
		"odd call": {script: `echo '{"type":"result","response":{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":7}}]}}]}}'`,
			kind: backend.Internal, want: "calls f with args that are not an object"},
		"nameless call": {script: `echo '{"type":"result","response":{"candidates":[{"content":{"parts":[{"functionCall":{"args":{}}}]}}]}}'`,
			kind: backend.Internal, want: "without a name"},

		"no JSON":       {script: `echo '{"type":"chunk","text":""}'; echo Loading the model...; ` + good, kind: backend.Internal, want: "line 2 of the command's output"},
		"cut off":       {script: `printf '{"type":"chu'`, kind: backend.Internal, want: "line 1 of"},
		"no object":     {script: `echo; echo 7`, kind: backend.Internal, want: "line 2 of"},
		"no type":       {script: `echo '{}'`, kind: backend.Internal, want: "line 1 of", cause: `no "type"`},
		"wrong field":   {script: `echo '{"type":"progress","percent":"40"}'`, kind: backend.Internal, want: "line 1 of", cause: "percent"},
		"two results":   {script: good + good, kind: backend.Internal, want: "line 2 of the command's output ends a job"},
		"late text":     {script: good + `echo '{"type":"chunk","text":"a"}'`, kind: backend.Internal, want: "line 2 of the command's output brings text"},
		"endless line":  {script: `head -c 34000000 /dev/zero | tr '\0' x; sleep 1000`, kind: backend.Internal, want: "line 1 of the command's output is longer than 32 MiB"},
		"too much text": {script: `t=$(head -c 9000000 /dev/zero | tr '\0' x); for i in 1 2 3 4; do echo '{"type":"chunk","text":"'$t'"}'; done; sleep 1000`, kind: backend.Internal, want: "more than 32 MiB of text"},

		"refused":        {script: `echo '{"type":"error","kind":"invalid_request","message":"topK: it is not supported"}'`, kind: backend.InvalidRequest, want: "topK: it is not supported"},
		"refused, code":  {script: `echo '{"type":"error","kind":"invalid_request","message":"no"}'; echo why 1>&2; exit 1`, kind: backend.InvalidRequest, want: "no", cause: "it wrote: why", secrets: "why"},
		"refused, stays": {script: `echo '{"type":"error","kind":"unauthorized","message":"no"}'; sleep 1000`, kind: backend.Unauthorized, want: "no"},
		"busy":           {script: `echo '{"type":"error","kind":"rate_limited","message":"busy","retry_after":1.5}'`, kind: backend.RateLimited, want: "busy", wait: 1500 * time.Millisecond},
		"busy for ever":  {script: `echo '{"type":"error","kind":"unavailable","retry_after":1e300}'`, kind: backend.Unavailable, want: "did not say why", wait: 24 * time.Hour},
		"unknown kind":   {script: `echo '{"type":"error","kind":"sad","message":"oh"}'`, kind: backend.Internal, want: "oh"},
	} {
		t.Run(name, func(t *testing.T) {
			b := shell(t, c.script, exec.Config{Grace: 50 * time.Millisecond})
			resp, err := b.Generate(t.Context(), ask("hi"))
			if c.kind == "" {
				if err != nil || said(resp) != c.want {
					t.Errorf("got %+v, %v", resp, err)
				}
				return
			}
			var e *backend.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, %v", resp, err)
			}
			if e.Kind != c.kind || !strings.Contains(e.Message, c.want) || e.RetryAfter != c.wait {
				t.Errorf("got %+v", e)
			}
			if c.secrets != "" && strings.Contains(e.Message, c.secrets) {
				t.Errorf("the caller is told %q", e.Message)
			}
			if c.cause != "" && (e.Cause == nil || !strings.Contains(e.Cause.Error(), c.cause)) || len(e.Error()) > 10_000 {
				t.Errorf("the cause is %.10000v", e.Cause)
			}
		})
	}
}

// TestLongMessage: what a command says is bounded, and cut between characters.
func TestLongMessage(t *testing.T) {
	b := shell(t, `m=$(printf '%04000d' 0 | sed 's/0/é/g'); echo '{"type":"error","message":"a'"$m"'"}'`, exec.Config{})
	_, err := b.Generate(t.Context(), ask("hi"))
	if m := backend.AsError(err).Message; len(m) > 2100 || !strings.HasSuffix(m, "éé…") {
		t.Errorf("%d bytes: %s", len(m), m)
	}
}

// TestCompletes: what a command leaves out is added, what it says is kept.
func TestCompletes(t *testing.T) {
	b := shell(t, `echo '{"type":"result","response":{"candidates":[{"content":{"parts":[{"text":"12345678"}]}},{"finish_reason":"SAFETY"}]}}'`, exec.Config{})
	got, err := b.Generate(t.Context(), ask("1234"))
	if err != nil {
		t.Fatal(err)
	}
	want := &genai.GenerateContentResponse{ModelVersion: "m", UsageMetadata: &genai.UsageMetadata{PromptTokenCount: 1, CandidatesTokenCount: 2, TotalTokenCount: 3},
		Candidates: []genai.Candidate{{FinishReason: "STOP", Content: &genai.Content{Role: "model", Parts: []genai.Part{genai.TextPart("12345678")}}},
			{FinishReason: "SAFETY", Index: 1}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	b = shell(t, `echo '{"type":"result","response":{"promptFeedback":{"blockReason":"SAFETY"},"modelVersion":"mine"}}'`, exec.Config{})
	got, err = b.Generate(t.Context(), ask("1234"))
	if err != nil || got.PromptFeedback.BlockReason != "SAFETY" || got.Candidates != nil || got.ModelVersion != "mine" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestHostileFiles: nothing but a regular file within the output folder is taken.
func TestHostileFiles(t *testing.T) {
	for name, c := range map[string]struct{ script, path, want string }{
		"parent":          {`echo x > a.mp4`, "../a.mp4", "within the output folder"},
		"absolute":        {`:`, "/etc/passwd", "within the output folder"},
		"link out":        {`ln -s /etc/passwd output/a.mp4`, "a.mp4", "within the output folder"},
		"relative link":   {`echo x > a; ln -s ../a output/a.mp4`, "a.mp4", "within the output folder"},
		"through a link":  {`ln -s /etc output/d`, "d/passwd", "within the output folder"},
		"the folder":      {`:`, ".", "not a file"},
		"a folder":        {`mkdir output/a.mp4`, "a.mp4", "not a file"},
		"a named pipe":    {`mkfifo output/a.mp4`, "a.mp4", "not a file"},
		"nothing":         {`:`, "a.mp4", `there is no "a.mp4"`},
		"empty":           {`: > output/a.mp4`, "a.mp4", "not a file with something in it"},
		"no name":         {`:`, "", "within the output folder"},
		"another folder":  {`mv output old; mkdir output; echo x > output/a.mp4`, "a.mp4", `there is no "a.mp4"`},
		"a link for it":   {`mv output old; ln -s /etc output`, "passwd.mp4", `there is no "passwd.mp4"`},
		"unknown type":    {`echo x > output/a.odd`, "a.odd", `mime_type "" is not`},
		"too large":       {`head -c 2000 /dev/zero > output/a.mp4`, "a.mp4", "more than 1000 bytes (max_output)"},
		"too large later": {`head -c 600 /dev/zero > output/b.mp4; ln output/b.mp4 output/a.mp4`, "b.mp4\"},{\"path\":\"a.mp4", "more than 1000 bytes (max_output)"},
		"too many":        {`:`, "a\"},{\"path\":\"b\"},{\"path\":\"c", "3 files where 2 were wanted"},
	} {
		t.Run(name, func(t *testing.T) {
			mimeType := `"mime_type":"video/mp4"`
			if strings.HasPrefix(c.want, "mime_type") {
				mimeType = `"mime_type":""`
			}
			b := shell(t, fmt.Sprintf("%s\necho '{\"type\":\"result\",\"files\":[{%s,\"path\":\"%s\"}]}'", c.script, mimeType, c.path), exec.Config{MaxOutput: 1000})
			out := new(output)
			_, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Count: 2}, out)
			var e *backend.Error
			if !errors.As(err, &e) || e.Kind != backend.Internal || !strings.Contains(e.Message, c.want) {
				t.Errorf("got %v", err)
			}
			if len(out.videos) > 1 {
				t.Errorf("it was taken: %.100q", out.videos)
			}
		})
	}
}

// TestVideoResults: what else may be wrong with a video's job.
func TestVideoResults(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		req    backend.VideoRequest
		kind   backend.Kind
		want   string
	}{
		"all filtered":     {script: `echo '{"type":"result","filtered":{"count":1,"reasons":["a hat"]}}'`},
		"nothing":          {script: `echo '{"type":"result"}'`, kind: backend.Internal, want: "neither files nor"},
		"negative count":   {script: `echo '{"type":"result","filtered":{"count":-1}}'`, kind: backend.Internal, want: "line 1 of"},
		"empty checkpoint": {script: `echo '{"type":"checkpoint"}'`, kind: backend.Internal, want: "line 1 of"},
		"bad media":        {req: backend.VideoRequest{LastFrame: &genai.Blob{Data: "!"}}, kind: backend.InvalidRequest, want: "lastFrame: its data is not base64"},
		"cut media":        {req: backend.VideoRequest{Image: &genai.Blob{Data: "AAA"}}, kind: backend.InvalidRequest, want: "image: its data"},
		"no reference":     {req: backend.VideoRequest{References: []backend.VideoReference{{}}}, kind: backend.InvalidRequest, want: "referenceImages[0].image: it is required"},
		"another's note":   {script: `read -r q; case $q in *checkpoint*) exit 1;; esac; echo '{"type":"result","filtered":{"count":1}}'`, req: backend.VideoRequest{Checkpoint: []byte("other:7")}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := shell(t, c.script, exec.Config{}).MakeVideos(t.Context(), &c.req, new(output))
			var e *backend.Error
			if errors.As(err, &e); c.kind == "" && err != nil || c.kind != "" && (e == nil || e.Kind != c.kind || !strings.Contains(e.Message, c.want)) {
				t.Errorf("got %v", err)
			}
		})
	}
	full := errors.New("the disk is full")
	b := shell(t, `echo '{"type":"checkpoint","state":1}'; exec sleep 1000`, exec.Config{})
	if _, err := b.MakeVideos(t.Context(), &backend.VideoRequest{}, &output{fail: full}); !errors.Is(err, full) {
		t.Errorf("a checkpoint that is not kept: %v", err)
	}
}

// TestTimeout, and what the command left behind.
func TestTimeout(t *testing.T) {
	b := shell(t, `sleep 1000 & sleep 1000`, exec.Config{Timeout: 50 * time.Millisecond})
	_, err := b.Generate(t.Context(), ask("hi"))
	if e := backend.AsError(err); e.Kind != backend.Timeout || !strings.Contains(e.Message, "50ms") {
		t.Errorf("got %v", err)
	}
}

// TestFilesTooLarge: a command is stopped while it fills the disk.
func TestFilesTooLarge(t *testing.T) {
	b := shell(t, `head -c 2000000 /dev/zero > tmp/x; exec sleep 1000`, exec.Config{MaxOutput: 1 << 20})
	_, err := b.Generate(t.Context(), ask("hi"))
	if e := backend.AsError(err); e.Kind != backend.Internal || !strings.Contains(e.Message, "max_output") {
		t.Errorf("got %v", err)
	}
}

// TestStreams: a chunk is there before the command prints the next one.
func TestStreams(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "go-on")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	b := shell(t, `echo '{"type":"chunk","text":"one "}'; read -r word < go-on; echo '{"type":"chunk","text":"'$word'"}'; echo '{"type":"result"}'`, exec.Config{Dir: dir})
	var got []string
	var last *genai.GenerateContentResponse
	for chunk, err := range b.Stream(t.Context(), ask("hi")) {
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			if err := os.WriteFile(fifo, []byte("two\n"), 0); err != nil {
				t.Fatal(err)
			}
		}
		got, last = append(got, said(chunk)), chunk
	}
	if d := cmp.Diff([]string{"one ", "two", ""}, got); d != "" {
		t.Error(d)
	}
	if last.Candidates[0].FinishReason != "STOP" || last.UsageMetadata.CandidatesTokenCount != 2 {
		t.Errorf("the last chunk is %+v", last)
	}
}

// TestListenerPanics: whatever happens, the command is ended and its folder removed.
func TestListenerPanics(t *testing.T) {
	b := shell(t, `echo '{"type":"chunk","text":"a"}'; exec sleep 1000`, exec.Config{})
	defer func() {
		if recover() == nil {
			t.Error("the panic was swallowed")
		}
	}()
	for range b.Stream(t.Context(), ask("hi")) {
		panic("oh")
	}
}

// TestEnvironment: a command finds what it needs, and none of the server's secrets.
func TestEnvironment(t *testing.T) {
	for name, value := range map[string]string{"RINGBACK_MASTER_KEY": "secret", "OPENAI_API_KEY": "secret", "HOME": "/home/of/server", "LANG": "", "PATH": os.Getenv("PATH")} {
		t.Setenv(name, value)
	}
	const script = `printf '{"type":"chunk","text":"%s %s"}\n{"type":"result"}\n' "$(pwd)" "$(env | sort | grep -v -e ^_= -e ^PWD= -e ^OLDPWD= -e ^SHLVL= | tr '\n' ' ')"`
	got, err := shell(t, script, exec.Config{Env: map[string]string{"COLOUR": "blue"}}).Generate(t.Context(), ask("hi"))
	if err != nil {
		t.Fatal(err)
	}
	folder, env, _ := strings.Cut(said(got), " ")
	if want := "COLOUR=blue HOME=/home/of/server LANG=C.UTF-8 PATH=" + os.Getenv("PATH") + " TMPDIR=" + folder + "/tmp "; env != want {
		t.Errorf("got  %s\nwant %s", env, want)
	}
	dir := t.TempDir()
	got, err = shell(t, script, exec.Config{Dir: dir, Env: map[string]string{"TMPDIR": "/var/tmp", "HOME": "/"}}).Generate(t.Context(), ask("hi"))
	if err != nil {
		t.Fatal(err)
	}
	if text := said(got); !strings.HasPrefix(text, dir+" ") || !strings.Contains(text, " HOME=/ ") || strings.Count(text, "TMPDIR=") != 1 || !strings.HasSuffix(text, "TMPDIR=/var/tmp ") {
		t.Errorf("got %s", text)
	}
}

// TestPrivate: nobody else may look into a job's folder.
func TestPrivate(t *testing.T) {
	b := shell(t, `printf '{"type":"chunk","text":"%s"}\n{"type":"result"}\n' "$(stat -c %a . input output tmp .. | tr '\n' ' ')"`, exec.Config{})
	got, err := b.Generate(t.Context(), ask("hi"))
	if err != nil || said(got) != "700 700 700 700 700 " {
		t.Errorf("got %v, %v", said(got), err)
	}
}

// TestReadOnlyFolders are removed all the same.
func TestReadOnlyFolders(t *testing.T) {
	b := shell(t, `mkdir -p tmp/a/b; : > tmp/a/b/c; chmod 0 tmp/a/b tmp/a; echo '{"type":"chunk","text":"a"}'; echo '{"type":"result"}'`, exec.Config{})
	if _, err := b.Generate(t.Context(), ask("hi")); err != nil {
		t.Error(err)
	}
}

// TestManyAtOnce: jobs don't get into each other's way.
func TestManyAtOnce(t *testing.T) {
	b := shell(t, `read -r q; echo "$q" > output/q; sleep 0 & printf '{"type":"chunk","text":"%s"}\n{"type":"result"}\n' "$(sed 's/.*number \([0-9]*\).*/\1/' output/q)"`, exec.Config{})
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			got, err := b.Generate(t.Context(), ask(fmt.Sprintf("number %d", i)))
			if err != nil || said(got) != fmt.Sprint(i) {
				t.Errorf("%d: got %v, %v", i, got, err)
			}
		})
	}
	all.Wait()
}

// TestNew wants each mistake to be named by its key.
func TestNew(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"tool", "text"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), map[string]os.FileMode{"tool": 0o700, "text": 0o600}[name]); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		config exec.Config
		want   string // Empty: it is good.
	}{
		"in the path":        {exec.Config{Command: []string{"sh"}}, ""},
		"in the folder":      {exec.Config{Command: []string{"./tool"}, Dir: dir}, ""},
		"absolute":           {exec.Config{Command: []string{filepath.Join(dir, "tool")}}, ""},
		"none":               {exec.Config{}, "command: give the program"},
		"empty":              {exec.Config{Command: []string{""}}, "command: give the program"},
		"missing":            {exec.Config{Command: []string{"no-such-program"}}, `command: "no-such-program" is not a program`},
		"missing there":      {exec.Config{Command: []string{"./no-such-program"}, Dir: dir}, `command: "./no-such-program"`},
		"not executable":     {exec.Config{Command: []string{"./text"}, Dir: dir}, `command: "./text"`},
		"a folder":           {exec.Config{Command: []string{dir}}, "command:"},
		"no folder":          {exec.Config{Command: []string{"sh"}, Dir: filepath.Join(dir, "nowhere")}, "dir:"},
		"a file as a folder": {exec.Config{Command: []string{"sh"}, Dir: filepath.Join(dir, "text")}, "dir:"},
		"odd variable":       {exec.Config{Command: []string{"sh"}, Env: map[string]string{"A=B": "c"}}, "env:"},
		"odd value":          {exec.Config{Command: []string{"sh"}, Env: map[string]string{"A": "\x00"}}, "env:"},
		"negative time":      {exec.Config{Command: []string{"sh"}, Timeout: -1}, "timeout:"},
		"negative grace":     {exec.Config{Command: []string{"sh"}, Grace: -1}, "grace:"},
		"negative size":      {exec.Config{Command: []string{"sh"}, MaxOutput: -1}, "max_output:"},
	} {
		_, err := exec.New(c.config)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestVanished: a program that is gone by the time of the job can't be started.
func TestVanished(t *testing.T) {
	tool := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(tool, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	b := backEnd(t, exec.Config{Command: []string{tool}})
	if err := os.Remove(tool); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Generate(t.Context(), ask("hi")); backend.AsError(err).Kind != backend.Unavailable {
		t.Errorf("got %v", err)
	}
}
