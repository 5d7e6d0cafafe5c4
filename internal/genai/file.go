package genai

// File is the file resource (wire contract §7.1). SizeBytes is a string, because
// the classic surface writes 64-bit integers so.
type File struct {
	Name           string `json:"name"`
	DisplayName    string `json:"displayName,omitempty"`
	MimeType       string `json:"mimeType,omitempty"`
	SizeBytes      string `json:"sizeBytes"`
	CreateTime     string `json:"createTime"`
	UpdateTime     string `json:"updateTime"`
	ExpirationTime string `json:"expirationTime,omitempty"`
	SHA256Hash     string `json:"sha256Hash"`
	URI            string `json:"uri"`
	DownloadURI    string `json:"downloadUri,omitempty"`
	State          string `json:"state"`
	Source         string `json:"source"`
	// VideoMetadata is of videos whose duration is known.
	VideoMetadata *VideoFileMetadata `json:"videoMetadata,omitempty"`
}

// VideoFileMetadata has a duration such as "4s" or "4.5s".
type VideoFileMetadata struct {
	VideoDuration string `json:"videoDuration"`
}

// UploadRequest is the body that starts an upload (§7.2). Every field is optional.
type UploadRequest struct {
	File struct {
		Name        string `json:"name,omitempty"`
		DisplayName string `json:"displayName,omitempty"`
		MimeType    string `json:"mimeType,omitempty"`
		SizeBytes   Int64  `json:"sizeBytes,omitempty"`
	} `json:"file"`
}

// UploadResponse is what the last answer of an upload holds.
type UploadResponse struct {
	File File `json:"file"`
}
