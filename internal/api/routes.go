package api

import (
	"net/http"
	"strings"

	"ringback.dev"
	"ringback.dev/internal/api/manage"
)

// versions are served alike (wire contract §0.3, rule 2).
var versions = [...]string{"v1", "v1beta", "v1alpha"}

// verbs maps methods to handlers for one path.
type verbs map[string]handlerFunc

// routes returns the handler of all routes. The standard mux finds the
// collection; what follows in the path is cut by hand, because the SDKs put
// verbs into the last segment and slashes into names (§0.4).
func (a *api) routes() http.Handler {
	mux := http.NewServeMux()
	for _, v := range versions {
		mux.Handle("/"+v+"/webhooks", a.serve(newSurface, func(*http.Request) (string, verbs) {
			return "webhooks", verbs{"POST": a.createWebhook, "GET": a.listWebhooks}
		}))
		mux.Handle("/"+v+"/webhooks/", a.serve(newSurface, a.webhookRoute))
		mux.Handle("/"+v+"/interactions", a.serve(newSurface, func(*http.Request) (string, verbs) {
			return "interactions", verbs{"POST": a.createInteraction}
		}))
		mux.Handle("/"+v+"/interactions/", a.serve(newSurface, a.interactionRoute))
		mux.Handle("/"+v+"/models", a.serve(classicSurface, func(*http.Request) (string, verbs) {
			return "models", verbs{"GET": a.listModels}
		}))
		mux.Handle("/"+v+"/models/", a.serve(classicSurface, a.modelRoute))
		mux.Handle("/"+v+"/batches", a.serve(classicSurface, func(*http.Request) (string, verbs) {
			return "batches", verbs{"GET": a.listBatches}
		}))
		mux.Handle("/"+v+"/batches/", a.serve(classicSurface, a.batchRoute))
		mux.Handle("/"+v+"/operations", a.serve(classicSurface, func(*http.Request) (string, verbs) {
			return "operations", verbs{"GET": a.listOperations}
		}))
		mux.Handle("/"+v+"/operations/", a.serve(classicSurface, func(r *http.Request) (string, verbs) {
			id, verb := cut(r, "operations")
			return a.operationRoute(r, id, verb)
		}))
		mux.Handle("/"+v+"/files", a.serve(classicSurface, func(*http.Request) (string, verbs) {
			return "files", verbs{"GET": a.listFiles, "POST": a.startUpload}
		}))
		mux.Handle("/"+v+"/files/", a.serve(classicSurface, a.fileRoute))
		mux.Handle("/download/"+v+"/files/", a.serve(classicSurface, a.fileRoute))
		start := a.serve(classicSurface, func(*http.Request) (string, verbs) { return "upload/files", verbs{"POST": a.startUpload} })
		resume := a.serveOpen(classicSurface, func(*http.Request) (string, verbs) {
			return "upload/files?upload_id", verbs{"POST": a.continueUpload, "PUT": a.continueUpload}
		})
		mux.HandleFunc("/upload/"+v+"/files", func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.RawQuery, "upload_id=") {
				resume.ServeHTTP(w, r)
				return
			}
			start.ServeHTTP(w, r)
		})
	}
	own := a.Manage
	own.Store, own.Secrets, own.Now, own.Authenticate, own.Dev = a.Store, a.Secrets, a.Now, a.authenticate, a.AnyKey != ""
	own.Fail = func(w http.ResponseWriter, r *http.Request, err error) { a.fail(w, r, newSurface, err) }
	own.Route = func(w http.ResponseWriter, pattern string, project ringback.ID) {
		note(w, pattern)
		noteProject(w, project)
	}
	mux.Handle("/ringback/v1/", manage.New(own))
	mux.Handle(UpstreamPath, a.serveOpen(newSurface, a.upstreamRoute))
	mux.Handle(jwksPath, http.HandlerFunc(a.jwks))
	unknown := a.serve(classicSurface, func(*http.Request) (string, verbs) { return "", nil })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, jwksPath) {
			a.jwks(w, r) // Below a prefix, such as a base address that ends in /v1beta.
			return
		}
		unknown.ServeHTTP(w, r)
	})
	return mux
}

const jwksPath = "/.well-known/jwks.json"

// jwks answers the keys by which receivers verify the callbacks of dynamic
// webhooks (wire contract §2.6). They are public.
func (a *api) jwks(w http.ResponseWriter, r *http.Request) {
	note(w, "jwks.json")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		a.fail(w, r, newSurface, &ringback.Error{Code: ringback.MethodNotAllowed, Message: r.Method + " is not possible here; allowed: GET, HEAD"})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	_, _ = w.Write(a.JWKS()) // The client has gone if this fails.
}

func (a *api) webhookRoute(r *http.Request) (string, verbs) {
	id, verb := cut(r, "webhooks")
	r.SetPathValue("id", id)
	switch verb {
	case "":
		return "webhooks/{id}", verbs{"GET": a.getWebhook, "PATCH": a.updateWebhook, "DELETE": a.deleteWebhook}
	case "ping":
		return "webhooks/{id}:ping", verbs{"POST": a.pingWebhook}
	case "rotateSigningSecret", "rotate_secret", "rotateSecret":
		return "webhooks/{id}:rotateSigningSecret", verbs{"POST": a.rotateWebhook}
	}
	return "", nil
}

func (a *api) interactionRoute(r *http.Request) (string, verbs) {
	id, verb := cut(r, "interactions")
	r.SetPathValue("id", id)
	switch verb {
	case "":
		return "interactions/{id}", verbs{"GET": a.getInteraction, "DELETE": a.deleteInteraction}
	case "cancel":
		return "interactions/{id}/cancel", verbs{"POST": a.cancelInteraction}
	}
	return "", nil
}

func (a *api) batchRoute(r *http.Request) (string, verbs) {
	id, verb := cut(r, "batches")
	r.SetPathValue("id", id)
	switch verb {
	case "":
		return "batches/{id}", verbs{"GET": a.getBatch, "DELETE": a.deleteBatch, "PATCH": a.updateBatch}
	case "cancel":
		return "batches/{id}:cancel", verbs{"POST": a.cancelBatch}
	case "updateGenerateContentBatch", "updateEmbedContentBatch":
		return "batches/{id}:update", verbs{"PATCH": a.updateBatch}
	}
	return "", nil
}

func (a *api) modelRoute(r *http.Request) (string, verbs) {
	name, verb := cutModel(r)
	if model, id, ok := strings.Cut(name, "/operations/"); ok {
		r.SetPathValue("model", model)
		return a.operationRoute(r, id, verb)
	}
	if r.Method == http.MethodGet && verb != "" && unservedVerbs[verb] == "" {
		// No verb is asked for with GET: the colon belongs to the name, as in "qwen2.5:0.5b".
		name, verb = name+":"+verb, ""
	}
	if name == "" {
		return "", nil
	}
	r.SetPathValue("id", name)
	switch verb {
	case "":
		return "models/{model}", verbs{"GET": a.getModel}
	case "generateContent":
		return "models/{model}:generateContent", verbs{"POST": a.generateContent}
	case "streamGenerateContent":
		return "models/{model}:streamGenerateContent", verbs{"POST": a.streamGenerateContent}
	case "predictLongRunning":
		return "models/{model}:predictLongRunning", verbs{"POST": a.createVideo}
	case "batchGenerateContent":
		return "models/{model}:batchGenerateContent", verbs{"POST": a.createBatch}
	case "batchCreate":
		return "models/{model}:batchCreate", verbs{"POST": a.createBatchAlias}
	case "asyncBatchEmbedContent":
		return "models/{model}:asyncBatchEmbedContent", verbs{"POST": a.createEmbedBatch}
	case "embedContent":
		return "models/{model}:embedContent", verbs{"POST": a.embedContent}
	case "batchEmbedContents":
		return "models/{model}:batchEmbedContents", verbs{"POST": a.batchEmbedContents}
	case "countTokens":
		return "models/{model}:countTokens", verbs{"POST": a.countTokens}
	}
	return "", nil
}

func (a *api) operationRoute(r *http.Request, id, verb string) (string, verbs) {
	r.SetPathValue("id", id)
	if strings.Contains(id, "/") {
		return "", nil
	}
	switch verb {
	case "":
		return "operations/{id}", verbs{"GET": a.getOperation, "DELETE": a.deleteOperation}
	case "cancel":
		return "operations/{id}:cancel", verbs{"POST": a.cancelOperation}
	}
	return "", nil
}

// cut splits what follows a collection in the path into an id and a verb, which
// stands after the last colon or, in older forms, after a slash. The id may
// carry its collection once more, encoded or not (§0.4).
func cut(r *http.Request, collection string) (id, verb string) {
	rest := after(r, collection)
	rest = strings.TrimPrefix(rest, collection+"/")
	id, verb, found := strings.Cut(rest, "/")
	if found {
		return id, verb
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		return rest[:i], rest[i+1:]
	}
	return rest, ""
}

// cutModel splits what follows models/ into a name, which may hold slashes, and
// a verb after the last colon.
func cutModel(r *http.Request) (name, verb string) {
	rest := after(r, "models")
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		return rest[:i], rest[i+1:]
	}
	return rest, ""
}

// after returns the decoded path behind "/{version}/{collection}/", before which
// "/download" may stand.
func after(r *http.Request, collection string) string {
	_, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/download"), "/"), "/")
	return strings.TrimPrefix(rest, collection+"/")
}

// unserved names the parts of the Gemini API that this version does not serve,
// so that a client learns more than "not found".
var unserved = map[string]string{
	"tunedModels": "tuned models", "cachedContents": "cached contents", "fileSearchStores": "file search stores",
}

// unservedVerbs is the same for what follows a model's name.
var unservedVerbs = map[string]string{"predict": "images"}

// notServed explains why a path has no route.
func notServed(r *http.Request) string {
	if _, verb := cutModel(r); verb != "" {
		if what := unservedVerbs[verb]; what != "" {
			return "this version of ringback does not serve " + what + " yet (" + r.URL.Path + ")"
		}
	}
	for segment := range strings.SplitSeq(r.URL.Path, "/") {
		if what := unserved[segment]; what != "" {
			return "this version of ringback does not serve " + what + " yet (" + r.URL.Path + ")"
		}
	}
	return "there is no " + r.URL.Path + " here; routes begin with /v1 or /v1beta and go on with models, interactions or webhooks"
}
