package ringback

import "time"

// File is what a client uploaded or a job produced. Its bytes are elsewhere,
// under Blob (package blob).
type File struct {
	// ID is what follows "files/" on the wire; it is unique within its project.
	ID          ID
	Project     ID
	DisplayName string
	MimeType    string
	Size        int64
	SHA256      []byte
	Blob        string
	// Generated: a job made it.
	Generated bool
	// Duration is how long a video takes; zero if that is not known.
	Duration         time.Duration
	Created, Updated time.Time
	// Expires is when the file is removed.
	Expires time.Time
}

// Upload is a file that has not wholly arrived.
type Upload struct {
	// Hash is the SHA-256 of the secret that lets its holder go on with the upload.
	Hash []byte
	// File is what the upload will become. Its Size is the one that was declared,
	// -1 if none was; Updated is when the last bytes arrived.
	File
	// Received is how many bytes have arrived and are durable; Digest is the state
	// of the SHA-256 over them.
	Received int64
	Digest   []byte
	// Done: the file exists.
	Done bool
}

// NewFileID makes a file's id: 26 characters of [a-z0-9], time-ordered (wire
// contract §0.3, rule 5).
func NewFileID(now time.Time) ID { return ID(ordered(now)) }
