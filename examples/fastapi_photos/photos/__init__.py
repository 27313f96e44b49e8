"""Photos: uploads straight to S3, thumbnails by jobs, and no object without a row."""
