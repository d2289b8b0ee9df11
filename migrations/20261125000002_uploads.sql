-- Files that came to a server over HTTP.

-- The uploaded files that the job reads: a folder of the server's, named by the hash of its list. NULL for a job that
-- reads other files.
ALTER TABLE jobs ADD COLUMN upload TEXT CHECK (upload IS NULL OR length(upload) = 64);
