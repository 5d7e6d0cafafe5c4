package storetest

import (
	"slices"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

func (s *suite) newUpload(secret string) *ringback.Upload {
	return &ringback.Upload{Hash: []byte(secret), Digest: []byte{1}, File: ringback.File{ID: ringback.NewFileID(s.now), Project: "p1",
		DisplayName: "d", MimeType: "text/plain", Size: -1, Blob: string(ringback.NewID("blob", s.now)), Created: s.now, Updated: s.now}}
}

// finished is the file that an upload becomes.
func (s *suite) finished(u *ringback.Upload) *ringback.File {
	f := u.File
	f.Size, f.SHA256, f.Updated, f.Expires = u.Received, []byte("sum"), s.now, s.now.Add(48*time.Hour)
	return &f
}

// aFile uploads a file of some bytes.
func (s *suite) aFile(size int64) *ringback.File {
	u := s.newUpload("secret of " + string(ringback.NewFileID(s.now)))
	u.Received = size
	s.ok(s.st.CreateUpload(s.ctx, u))
	f := s.finished(u)
	s.ok(s.st.FinishUpload(s.ctx, u.Hash, f))
	return f
}

func testUploadLife(s *suite) {
	u := s.newUpload("secret")
	s.ok(s.st.CreateUpload(s.ctx, u))
	_, err := s.st.Upload(s.ctx, []byte("other"))
	s.fails(err, ringback.NotFound)
	s.now = s.now.Add(time.Second)
	s.ok(s.st.AdvanceUpload(s.ctx, u.Hash, 7, []byte{2}, s.now))
	s.reopen()
	u.Received, u.Digest, u.Updated = 7, []byte{2}, s.now
	got, err := s.st.Upload(s.ctx, u.Hash)
	s.ok(err)
	s.same(got, *u)
	n, err := s.st.BytesStored(s.ctx, "p1")
	s.ok(err)
	s.same(n, int64(7))
	f := s.finished(u)
	s.ok(s.st.FinishUpload(s.ctx, u.Hash, f))
	s.fails(s.st.FinishUpload(s.ctx, u.Hash, f), ringback.AlreadyExists)
	s.fails(s.st.AdvanceUpload(s.ctx, u.Hash, 8, nil, s.now), ringback.NotFound)
	s.ok(s.st.DeleteUpload(s.ctx, u.Hash)) // It is done: nothing is removed.
	got, err = s.st.Upload(s.ctx, u.Hash)
	s.ok(err)
	s.same(got.Done, true)
	s.fails(s.st.CreateUpload(s.ctx, &ringback.Upload{Hash: []byte("again"), File: u.File}), ringback.AlreadyExists)
	n, err = s.st.BytesStored(s.ctx, "p1")
	s.ok(err)
	s.same(n, int64(7))
	garbage, err := s.st.Garbage(s.ctx, 10)
	s.ok(err)
	s.same(len(garbage), 0)

	given := s.newUpload("given up")
	s.ok(s.st.CreateUpload(s.ctx, given))
	s.ok(s.st.DeleteUpload(s.ctx, given.Hash))
	s.fails(s.st.FinishUpload(s.ctx, given.Hash, s.finished(given)), ringback.NotFound)
	garbage, err = s.st.Garbage(s.ctx, 10)
	s.ok(err)
	s.same(garbage, []string{given.Blob})
	s.ok(s.st.ForgetGarbage(s.ctx, garbage))
	garbage, err = s.st.Garbage(s.ctx, 10)
	s.ok(err)
	s.same(len(garbage), 0)
}

func testFiles(s *suite) {
	s.project("p2")
	var all []ringback.File
	for range 5 {
		all = append([]ringback.File{*s.aFile(3)}, all...)
	}
	s.reopen()
	got, err := s.st.File(s.ctx, "p1", all[2].ID, s.now)
	s.ok(err)
	s.same(got, all[2])
	_, err = s.st.File(s.ctx, "p2", all[2].ID, s.now)
	s.fails(err, ringback.NotFound)
	_, err = s.st.File(s.ctx, "p1", all[2].ID, all[2].Expires)
	s.fails(err, ringback.NotFound)
	var listed []ringback.File
	for next := int64(0); ; {
		var page []ringback.File
		page, next, err = s.st.ListFiles(s.ctx, "p1", s.now, next, 2)
		s.ok(err)
		if listed = append(listed, page...); next == 0 {
			break
		}
	}
	s.same(listed, all)
	page, next, err := s.st.ListFiles(s.ctx, "p1", s.now, 0, 5)
	s.ok(err)
	s.same(len(page), 5)
	s.same(next, int64(0))
	s.fails(s.st.DeleteFile(s.ctx, "p2", all[0].ID), ringback.NotFound)
	s.ok(s.st.DeleteFile(s.ctx, "p1", all[0].ID))
	s.fails(s.st.DeleteFile(s.ctx, "p1", all[0].ID), ringback.NotFound)
	garbage, err := s.st.Garbage(s.ctx, 10)
	s.ok(err)
	s.same(garbage, []string{all[0].Blob})
	// One id in two projects.
	u := s.newUpload("of another project")
	u.ID, u.Project = all[1].ID, "p2"
	s.ok(s.st.CreateUpload(s.ctx, u))
	s.ok(s.st.FinishUpload(s.ctx, u.Hash, s.finished(u)))
}

func testExpireFiles(s *suite) {
	old, half, done := s.aFile(1), s.newUpload("half"), s.now
	s.ok(s.st.CreateUpload(s.ctx, half))
	s.now = s.now.Add(time.Hour)
	fresh := s.aFile(1)
	n, err := s.st.ExpireFiles(s.ctx, s.now, done, 10)
	s.ok(err)
	s.same(n, 0)
	n, err = s.st.ExpireFiles(s.ctx, old.Expires, s.now, 10)
	s.ok(err)
	s.same(n, 3) // The file, its upload, and the half one.
	_, err = s.st.File(s.ctx, "p1", fresh.ID, s.now)
	s.ok(err)
	_, err = s.st.Upload(s.ctx, half.Hash)
	s.fails(err, ringback.NotFound)
	garbage, err := s.st.Garbage(s.ctx, 10)
	s.ok(err)
	want := []string{old.Blob, half.Blob}
	slices.Sort(want)
	slices.Sort(garbage)
	s.same(garbage, want)
}

// testBlobsOfJobs: what a job makes is garbage once the job has ended without it.
func testBlobsOfJobs(s *suite) {
	garbage := func() []string {
		s.Helper()
		blobs, err := s.st.Garbage(s.ctx, 10)
		s.ok(err)
		slices.Sort(blobs)
		return blobs
	}
	s.createJob()
	c := s.claimJobs(1)[0]
	for _, blob := range []string{"blob_kept", "blob_left", "blob_lost"} {
		s.ok(s.st.NoteBlob(s.ctx, c.ID, c.Lease, blob))
	}
	s.fails(s.st.NoteBlob(s.ctx, c.ID, ringback.Lease{Token: c.Lease.Token + 1}, "blob_other"), ringback.Stale)
	s.ok(s.st.ReleaseJobs(s.ctx, []store.Held{{ID: c.ID, Token: c.Lease.Token}}, s.now, false))
	s.reopen()
	s.same(len(garbage()), 0) // A later run may be about to begin.
	again := s.claimJobs(1)[0]
	s.fails(s.st.NoteBlob(s.ctx, c.ID, c.Lease, "blob_late"), ringback.Stale)
	f := ringback.File{ID: ringback.NewFileID(s.now), Project: "p1", MimeType: "video/mp4", Size: 1, SHA256: []byte("sum"), Blob: "blob_kept",
		Generated: true, Duration: 4 * time.Second, Created: s.now, Updated: s.now, Expires: s.now.Add(time.Hour)}
	s.ok(s.st.EndJob(s.ctx, c.ID, &again.Lease, &store.End{State: ringback.Completed, Files: []ringback.File{f}, At: s.now}))
	s.same(garbage(), []string{"blob_left", "blob_lost"})
	got, err := s.st.File(s.ctx, "p1", f.ID, s.now)
	s.ok(err)
	s.same(got, f)
	s.fails(s.st.NoteBlob(s.ctx, c.ID, again.Lease, "blob_later"), ringback.Stale)
	s.ok(s.st.ForgetGarbage(s.ctx, garbage()))

	s.createJob()
	c = s.claimJobs(1)[0]
	s.ok(s.st.NoteBlob(s.ctx, c.ID, c.Lease, "blob_deleted"))
	s.same(len(garbage()), 0)
	s.ok(s.st.DeleteJob(s.ctx, "p1", c.ID))
	s.same(garbage(), []string{"blob_deleted"})
}
