package genai

import (
	"encoding/json"
	"errors"
	"fmt"
)

// CreateBatch is the body that creates a batch (wire contract §4.2, §4.3).
// WebhookConfig beside Batch is a form that only documentation shows (§3).
type CreateBatch struct {
	Batch         BatchInput      `json:"batch"`
	WebhookConfig json.RawMessage `json:"webhookConfig,omitempty"`
}

// BatchInput says what to run.
type BatchInput struct {
	DisplayName string `json:"displayName,omitempty"`
	Model       string `json:"model,omitempty"`
	InputConfig struct {
		FileName string         `json:"fileName,omitempty"`
		Requests *InlinedInputs `json:"requests,omitempty"`
	} `json:"inputConfig"`
	Priority      Int64           `json:"priority,omitempty"`
	WebhookConfig json.RawMessage `json:"webhookConfig,omitempty"`
}

// InlinedInputs are rows within the request.
type InlinedInputs struct {
	Requests []InlinedInput `json:"requests,omitempty"`
}

// InlinedInput is one row.
type InlinedInput struct {
	Request  json.RawMessage `json:"request,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// BatchCreateAlias is a form of CreateBatch that only documentation shows: Src is
// a file's name or a list of requests (§3).
type BatchCreateAlias struct {
	Src    json.RawMessage `json:"src,omitempty"`
	Config struct {
		DisplayName   string          `json:"displayName,omitempty"`
		Priority      Int64           `json:"priority,omitempty"`
		WebhookConfig json.RawMessage `json:"webhookConfig,omitempty"`
	} `json:"config"`
}

// Batch is the batch resource, the metadata of its operation (§4.4).
type Batch struct {
	Type        string           `json:"@type"`
	Name        string           `json:"name"`
	Model       string           `json:"model"`
	DisplayName string           `json:"displayName"`
	State       string           `json:"state"`
	CreateTime  string           `json:"createTime"`
	UpdateTime  string           `json:"updateTime"`
	EndTime     string           `json:"endTime,omitempty"`
	InputConfig BatchInputConfig `json:"inputConfig"`
	Output      *BatchOutput     `json:"output,omitempty"`
	BatchStats  BatchStats       `json:"batchStats"`
	Priority    Int64            `json:"priority"`
}

// BatchInputConfig tells where the rows came from. Those of a request are not
// shown again.
type BatchInputConfig struct {
	FileName string `json:"fileName,omitempty"`
}

// BatchOutput points to the results, or holds them.
type BatchOutput struct {
	// Type is set only where the output is the response of an operation.
	Type             string            `json:"@type,omitempty"`
	ResponsesFile    string            `json:"responsesFile,omitempty"`
	InlinedResponses *InlinedResponses `json:"inlinedResponses,omitempty"`
}

// InlinedResponses has the doubled name of the wire; each response is a row's
// result as it stands in the output.
type InlinedResponses struct {
	InlinedResponses []json.RawMessage `json:"inlinedResponses"`
}

// BatchStats counts rows, as strings.
type BatchStats struct {
	RequestCount           Int64 `json:"requestCount"`
	SuccessfulRequestCount Int64 `json:"successfulRequestCount"`
	FailedRequestCount     Int64 `json:"failedRequestCount"`
	PendingRequestCount    Int64 `json:"pendingRequestCount"`
}

// BatchOperation is how a batch is shown (§4.4). State and Dest at the top are for
// samples of the documentation that read them there.
type BatchOperation struct {
	Name     string        `json:"name"`
	Metadata Batch         `json:"metadata"`
	Done     bool          `json:"done"`
	Response *BatchOutput  `json:"response,omitempty"`
	Error    *RowError     `json:"error,omitempty"`
	State    string        `json:"state"`
	Dest     *BatchDestiny `json:"dest,omitempty"`
}

// BatchDestiny is where the results are, in the form of the SDKs.
type BatchDestiny struct {
	FileName string `json:"fileName,omitempty"`
}

// RowError is a google.rpc.Status without details, which Go can't decode in a row
// (§4.5).
type RowError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// RowInput is a line of a batch's input (§4.9); a row of a request has Metadata
// instead of Key. Both are echoed as they are. T is the type of the request.
type RowInput[T any] struct {
	Key      json.RawMessage `json:"key,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
	Request  *T              `json:"request,omitempty"`
}

// Check finds what is missing in a request that was decoded.
func (q *GenerateContentRequest) Check() error {
	if len(q.Contents) == 0 {
		return errors.New("contents: it is required and must not be empty")
	}
	for i := range q.Contents {
		if len(q.Contents[i].Parts) == 0 {
			return fmt.Errorf("contents[%d].parts: it is required and must not be empty", i)
		}
	}
	return nil
}

// Check finds what is missing in a request that was decoded.
func (q *EmbedContentRequest) Check() error {
	if q.Content == nil || len(q.Content.Parts) == 0 {
		return errors.New("content.parts: it is required and must not be empty")
	}
	return nil
}
