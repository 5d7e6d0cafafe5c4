package ringback_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "ringback.dev"

// siblings meet in the store; they don't know each other.
var siblings = []string{"internal/api", "internal/web", "internal/work", "internal/deliver", "internal/edge"}

// adapters are named by app alone, which picks them.
var adapters = []string{
	"internal/store/sqlite", "internal/store/postgres", "internal/backend/openai", "internal/backend/emulator",
	"internal/backend/gemini", "internal/backend/exec", "internal/blob/dir", "internal/blob/cloud",
	"inbox/sqlite", "inbox/postgres",
}

// stdlibOnly are the packages that others import without getting more.
var stdlibOnly = []string{"", "webhook"}

// public are the other packages that others import, with those of this module that
// they may import. All that is not named here stays out of their users' programs.
var public = map[string][]string{
	"inbox":          {"webhook"},
	"inbox/sqlite":   {"inbox", "internal/group", "internal/sqlitefile"},
	"inbox/postgres": {"inbox", "internal/group"},
}

// TestImports holds the table of imports: cmd, then app, then the siblings, then
// ports and helpers, then the vocabulary at the root. Programs and suites that
// test the whole from outside (package main, …test) stand above it.
func TestImports(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); base != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "e2e" || base == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		files++
		from := strings.TrimPrefix(path.Dir(filepath.ToSlash(name)), ".")
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := forbidden(from, f.Name.Name, imported); why != "" {
				t.Errorf("%s imports %s: %s", name, imported, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("only %d files were looked at", files)
	}
}

// forbidden says why a package must not import another; empty if it may.
func forbidden(from, name, imported string) string {
	to, own := strings.CutPrefix(imported+"/", module+"/")
	to = strings.TrimSuffix(to, "/")
	if !own {
		if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") && (slices.Contains(stdlibOnly, from) || from == "inbox") {
			return "it may import the standard library only"
		}
		return ""
	}
	switch program := name == "main" && !strings.HasPrefix(from, "cmd/"); {
	case slices.Contains(stdlibOnly, from):
		return "it may import the standard library only"
	case public[from] != nil:
		if !slices.Contains(public[from], to) {
			return "public packages bring little with them"
		}
	case strings.HasPrefix(to, "cmd/"):
		return "nothing may import a command"
	case program || from == "internal/app":
		return ""
	case slices.Contains(adapters, to):
		return "only internal/app names adapters"
	case strings.HasPrefix(from, "cmd/"):
		if below(siblings, to) != "" {
			return "commands reach the server through internal/app"
		}
	case to == "internal/app":
		return "only commands import internal/app"
	case below(siblings, from) != "":
		if s := below(siblings, to); s != "" && s != below(siblings, from) {
			return "siblings never import each other"
		}
	case below(siblings, to) != "":
		return "ports and helpers know nothing of what is built on them"
	}
	return ""
}

// below returns the folder of the list that a package is or lies in.
func below(folders []string, pkg string) string {
	for _, f := range folders {
		if pkg == f || strings.HasPrefix(pkg, f+"/") {
			return f
		}
	}
	return ""
}

// TestForbidden makes sure that the table above can say no.
func TestForbidden(t *testing.T) {
	for _, x := range []struct {
		from, name, to string
		refused        bool
	}{
		{"", "ringback", "time", false},
		{"", "ringback", "golang.org/x/sync/errgroup", true},
		{"webhook", "webhook", module, true},
		{"inbox", "inbox", module + "/webhook", false},
		{"inbox", "inbox", module, true},
		{"inbox", "inbox", "modernc.org/sqlite", true},
		{"inbox/sqlite", "sqlite", "modernc.org/sqlite", false},
		{"inbox/sqlite", "sqlite", module + "/inbox", false},
		{"inbox/sqlite", "sqlite", module + "/internal/store", true},
		{"internal/edge", "edge", module + "/inbox", false},
		{"internal/edge", "edge", module + "/inbox/sqlite", true},
		{"cmd/ringback", "main", module + "/internal/app", false},
		{"cmd/ringback", "main", module + "/internal/api", true},
		{"cmd/ringback", "main", module + "/internal/store/sqlite", true},
		{"internal/app", "app", module + "/internal/store/sqlite", false},
		{"internal/api", "api", module + "/internal/work", true},
		{"internal/api", "api", module + "/internal/api/manage", false},
		{"internal/api/manage", "manage", module + "/internal/deliver", true},
		{"internal/api", "api", module + "/internal/store", false},
		{"internal/api", "api", module + "/internal/store/sqlite", true},
		{"internal/api", "api", module + "/internal/app", true},
		{"internal/emit", "emit", module + "/internal/deliver", true},
		{"internal/emit", "emit", module + "/internal/store", false},
		{"internal/bench", "main", module + "/internal/store/sqlite", false},
	} {
		if why := forbidden(x.from, x.name, x.to); (why != "") != x.refused {
			t.Errorf("%q imports %q: refused is %v (%s), want %v", x.from, x.to, why != "", why, x.refused)
		}
	}
}
