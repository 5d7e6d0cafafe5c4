package api_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"ringback.dev/internal/genai"
)

// An interaction makes a video where version 3 of the SDKs has no other way: a file
// of this server, or its bytes.
func TestInteractionVideo(t *testing.T) {
	s := newServer(t)
	s.subscribe("interaction.completed")
	const ask = `"model":"gemini-x","input":"a cat","response_format":{"type":"video","aspect_ratio":"9:16","duration":"4s","resolution":"720p"`
	got := s.create("{" + ask + "}}").golden("interaction_video")
	uri := content(t, got.body).URI
	id, ok := strings.CutPrefix(uri, s.url+"/v1beta/")
	if !ok {
		t.Fatalf("the video is at %q", uri)
	}
	file := s.do("GET", "/v1beta/"+id, "")
	if file.status != http.StatusOK || file.header.Get("Content-Type") != "video/mp4" || file.body[4:8] != "ftyp" {
		t.Errorf("the file is answered %d %s", file.status, file.header.Get("Content-Type"))
	}
	inline := content(t, s.create("{"+ask+`,"delivery":"inline"}}`).body)
	if data, err := base64.StdEncoding.DecodeString(inline.Data); err != nil || string(data[4:8]) != "ftyp" || inline.URI != "" || inline.MimeType != "video/mp4" {
		t.Errorf("inline: %v, uri %q, type %q", err, inline.URI, inline.MimeType)
	}
	stream := s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":"a cat","response_modalities":["video"],"stream":true,"background":true}`).goldenStream("stream_video")
	for i, event := range stream.events() {
		e, err := genai.ReadEvent([]byte(event))
		if err != nil || e.ID != genai.EventID(int64(i+1)) {
			t.Errorf("event %d is %s, %v", i+1, event, err)
		}
	}
	image := s.put("\x89PNG\r\n\x1a\n and so on", "image/png")
	s.create(`{"model":"gemini-x","input":[{"type":"text","text":"go on"},{"type":"image","uri":"` + image + `"},{"type":"image","data":"iVBORw0KGgo=","mime_type":"image/png"}],"response_format":{"type":"video"},"generation_config":{"seed":7}}`)
	if failed := s.create(`{"model":"fail","input":"a cat","response_format":{"type":"video"}}`); failed.field("status") != "failed" || !strings.Contains(failed.body, "the model is not reachable") {
		t.Errorf("got %s", failed.body)
	}
	bodies := s.eventBodies(got.field("id"))
	if len(bodies) != 1 || !strings.Contains(bodies[0], `"file_name":"files/`) {
		t.Errorf("events: %q", bodies)
	}
	for rest, hint := range map[string]string{
		`"input":"x","response_format":{"type":"video","gcs_uri":"gs://b"}`:                                 "response_format.gcs_uri",
		`"input":"x","response_format":{"type":"video","duration":"long"}`:                                  "response_format.duration",
		`"input":"x","response_format":{"type":"video","delivery":"post"}`:                                  "response_format.delivery",
		`"input":"x","response_format":{"type":"video"},"store":false`:                                      "store: a video is a file",
		`"input":"x","response_format":{"type":"video"},"system_instruction":"s"`:                           "system_instruction: it has no meaning",
		`"input":"x","response_format":{"type":"video"},"generation_config":{"temperature":1}`:              `not {"temperature":1}`,
		`"input":"x","response_format":{"type":"video"},"previous_interaction_id":"v1_x"`:                   "previous_interaction_id: a video",
		`"input":{"type":"audio","data":"AA==","mime_type":"audio/wav"},"response_format":{"type":"video"}`: "not of audio",
		`"input":{"type":"image","uri":"files/none"},"response_format":{"type":"video"}`:                    "there is no file",
	} {
		a := s.do("POST", "/v1/interactions", `{"model":"gemini-x",`+rest+`}`)
		if (a.status != 400 && a.status != 404) || !strings.Contains(strings.ReplaceAll(a.body, `\"`, `"`), hint) {
			t.Errorf("%s: got %d %s", rest, a.status, a.body)
		}
	}
}

// content is the first content of the first step of an interaction.
func content(t *testing.T, body string) genai.StepContent {
	t.Helper()
	var r genai.Interaction
	if err := genai.Decode([]byte(body), &r); err != nil || len(r.Steps) != 1 || len(r.Steps[0].Content) != 1 || r.Steps[0].Content[0].Type != "video" {
		t.Fatalf("got %s, %v", body, err)
	}
	return r.Steps[0].Content[0]
}
