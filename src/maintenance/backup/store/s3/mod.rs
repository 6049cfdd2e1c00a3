//! Backups in S3, or what speaks like it. Nothing is kept on this machine meanwhile: what comes goes on in parts.

mod error;
mod http;
mod settings;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Args;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions,
    RetryConfig, UpdateVersion,
};
use tokio::task::JoinSet;

use super::{Leftover, Listing, MANIFEST, STARTED, Started};
use crate::maintenance::backup::manifest::{Encryption, Manifest, Upload, is_id};
use crate::maintenance::exit::Failure;
use crate::maintenance::units::Span;
use error::failure;
use http::Connections;

/// S3 takes no more parts of an object, and no smaller ones but for the last.
const PARTS_MAX: u64 = 10_000;
const PART_BYTES: u64 = 16 << 20;

/// Parts under way at once; beside these one is being filled.
const PARALLEL: usize = 4;

/// Manifests read at once.
const READ_PARALLEL: usize = 8;

/// How often a request is repeated, within so many times `--s3-timeout`.
const RETRIES: usize = 5;
const RETRY_TIMES: u32 = 3;

/// How often a manifest is read anew because somebody else has changed it.
const CHANGES_MAX: usize = 5;

#[derive(Args, Clone, Debug)]
pub(crate) struct S3Options {
    /// URL of S3-compatible storage [default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile's, or Amazon's of the region]
    #[arg(long, value_name = "URL")]
    pub(super) s3_endpoint: Option<String>,
    /// Region of the bucket [default: AWS_REGION, AWS_DEFAULT_REGION, the profile's, or us-east-1]
    #[arg(long, value_name = "NAME")]
    pub(super) s3_region: Option<String>,
    /// Name the bucket in the path of URLs instead of the host's name; endpoints without a host name do so anyway
    #[arg(long)]
    pub(super) path_style: bool,
    /// Give up a request to S3 when nothing moves for this time; what failed is tried again for three times as long
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(super) s3_timeout: Span,
}

/// A bucket, or a part of one. Clones are of the same.
#[derive(Clone)]
pub(crate) struct S3 {
    bucket: Arc<str>,
    prefix: Path,
    /// Has the credentials.
    builder: AmazonS3Builder,
    plain: Arc<AmazonS3>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({self})")
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

impl S3 {
    /// What `bucket/prefix` stands for.
    pub(super) fn open(rest: &str, options: &S3Options) -> Result<S3, Failure> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(Failure::usage("--to s3://BUCKET/PREFIX: the bucket's name is missing"));
        }
        let prefix = Path::parse(prefix.trim_matches('/'))
            .map_err(|e| Failure::usage(format!("--to: {prefix} is no prefix of S3's: {e}")))?;
        let limit = options.s3_timeout.0.max(Duration::from_millis(100));
        let roots = std::env::var_os("AWS_CA_BUNDLE").map(Into::into);
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: limit * RETRY_TIMES, ..RetryConfig::default() };
        let builder = settings::builder(bucket, options)?
            .with_http_connector(Connections::new(roots, limit)?)
            // The storage compares it with what it got; for signatures it is computed anyway.
            .with_checksum_algorithm(Checksum::SHA256)
            // Removing many by one request is what not all of S3's kind know.
            .with_disable_bulk_delete(true)
            .with_retry(retry);
        let plain = Arc::new(built(builder.clone())?);
        Ok(S3 { bucket: bucket.into(), prefix, builder, plain })
    }

    /// A client that has what it writes encrypted as asked for.
    fn writing(&self, upload: Option<&Upload>) -> Result<Arc<AmazonS3>, Failure> {
        let Some(Upload { sse: Some(sse), kms_key, .. }) = upload else { return Ok(Arc::clone(&self.plain)) };
        let algorithm = match sse {
            Encryption::S3 => "AES256",
            Encryption::Kms => "aws:kms",
        };
        let pairs = [("aws_server_side_encryption", Some(algorithm)), ("aws_sse_kms_key_id", kms_key.as_deref())];
        let mut builder = self.builder.clone();
        for (name, value) in pairs {
            let key = name.parse::<AmazonS3ConfigKey>().map_err(|e| failure(name, &e))?;
            builder = value.into_iter().fold(builder, |builder, value| builder.with_config(key, value));
        }
        built(builder).map(Arc::new)
    }

    fn dir(&self, id: &str) -> Path {
        self.prefix.clone().join(id)
    }

    fn path(&self, id: &str, name: &str) -> Path {
        name.split('/').fold(self.dir(id), |path, part| path.join(part))
    }

    fn url(&self, path: &Path) -> String {
        format!("s3://{}/{path}", self.bucket)
    }

    /// All objects below `prefix`.
    async fn objects(&self, prefix: &Path) -> Result<Vec<ObjectMeta>, Failure> {
        let listed = self.plain.list(Some(prefix)).try_collect().await;
        listed.map_err(|e| failure(&format!("could not list {}", self.url(prefix)), &e))
    }

    pub(super) async fn listing(&self) -> Result<Listing, Failure> {
        let mut by_id: BTreeMap<String, Vec<(String, ObjectMeta)>> = BTreeMap::new();
        for object in self.objects(&self.prefix).await? {
            let parts: Option<Vec<String>> = object
                .location
                .prefix_match(&self.prefix)
                .map(|rest| rest.map(|part| part.as_ref().to_owned()).collect());
            if let Some([id, rest @ ..]) = parts.as_deref()
                && is_id(id)
                && !rest.is_empty()
            {
                by_id.entry(id.clone()).or_default().push((rest.join("/"), object));
            }
        }
        let mut listing = Listing::default();
        let has = |objects: &[(String, ObjectMeta)], wanted: &str| objects.iter().any(|(name, _)| name == wanted);
        let (made, others): (Vec<_>, Vec<_>) = by_id.into_iter().partition(|(_, objects)| has(objects, MANIFEST));
        for (id, objects) in others.into_iter().filter(|(_, objects)| has(objects, STARTED)) {
            let bytes = objects.iter().map(|(_, object)| object.size).sum();
            let written = objects.iter().map(|(_, object)| object.last_modified.timestamp()).max().unwrap_or(i64::MAX);
            let written_at = Timestamp::from_second(written).unwrap_or(Timestamp::MAX);
            listing.leftovers.push(Leftover { id, bytes, written_at });
        }
        let read = async |id: String| (self.manifest(&id).await, id);
        let mut manifests = futures_util::stream::iter(made).map(|(id, _)| read(id)).buffered(READ_PARALLEL);
        while let Some((read, id)) = manifests.next().await {
            match read {
                // Removed meanwhile.
                Ok(None) => {}
                Ok(Some(text)) => match Manifest::parse(&id, &text) {
                    Ok(manifest) => listing.backups.push(manifest),
                    Err(why) => listing.unreadable.push((id, why)),
                },
                Err(failure) => return Err(failure),
            }
        }
        Ok(listing)
    }

    async fn get(&self, path: &Path) -> Result<Option<(Vec<u8>, UpdateVersion)>, Failure> {
        let error = |e: object_store::Error| match e {
            object_store::Error::NotFound { .. } if !is_bucket_missing(&e) => Ok(None),
            e => Err(failure(&format!("could not read {}", self.url(path)), &e)),
        };
        let got = match self.plain.get(path).await {
            Ok(got) => got,
            Err(e) => return error(e),
        };
        let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
        match got.bytes().await {
            Ok(bytes) => Ok(Some((bytes.to_vec(), version))),
            Err(e) => error(e),
        }
    }

    /// None: there is none.
    pub(super) async fn manifest(&self, id: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.get(&self.path(id, MANIFEST)).await?.map(|(text, _)| text))
    }

    async fn put_started(
        &self,
        id: &str,
        started: &Started,
        upload: Option<&Upload>,
        mode: PutMode,
    ) -> Result<bool, Failure> {
        let path = self.path(id, STARTED);
        let text = serde_json::to_vec(started).map_err(|e| Failure::failed(e.to_string()))?;
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.writing(upload)?.put_opts(&path, text.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(e) => Err(failure(&format!("could not write {}", self.url(&path)), &e)),
        }
    }

    /// None: there is such a backup.
    pub(super) async fn begin(&self, id: &str, upload: Option<&Upload>) -> Result<Option<Draft>, Failure> {
        // One that is finished has no `started.json` any more.
        if !self.objects(&self.dir(id)).await?.is_empty() {
            return Ok(None);
        }
        let started = Started { at: Timestamp::now(), uploads: Vec::new() };
        if !self.put_started(id, &started, upload, PutMode::Create).await? {
            return Ok(None);
        }
        let started = Rc::new(RefCell::new(started));
        Ok(Some(Draft { s3: self.clone(), id: id.to_owned(), upload: upload.cloned(), started }))
    }

    pub(super) async fn finish(&self, manifest: &Manifest) -> Result<(), Failure> {
        let path = self.path(&manifest.id, MANIFEST);
        let put = self.writing(manifest.upload.as_ref())?.put(&path, manifest.to_json().into()).await;
        put.map_err(|e| failure(&format!("could not write {}", self.url(&path)), &e))?;
        self.remove(&self.path(&manifest.id, STARTED)).await
    }

    /// Changes the manifest as it is at that moment.
    pub(super) async fn change(&self, id: &str, change: &dyn Fn(&mut Manifest)) -> Result<Option<Manifest>, Failure> {
        let path = self.path(id, MANIFEST);
        for _ in 0..CHANGES_MAX {
            let Some((text, version)) = self.get(&path).await? else { return Ok(None) };
            let parsed = Manifest::parse(id, &text).map_err(|why| Failure::unverified(format!("{id}: {why}")));
            let mut manifest = parsed?;
            change(&mut manifest);
            let options = PutOptions { mode: PutMode::Update(version), ..PutOptions::default() };
            let put = self.writing(manifest.upload.as_ref())?.put_opts(&path, manifest.to_json().into(), options).await;
            match put {
                Ok(_) => return Ok(Some(manifest)),
                Err(object_store::Error::Precondition { .. }) => {}
                Err(e) => return Err(failure(&format!("could not write {}", self.url(&path)), &e)),
            }
        }
        Err(Failure::failed(format!("{} is being changed by somebody else", self.url(&path))))
    }

    pub(super) async fn read(&self, id: &str, name: &str) -> Result<Reader, Failure> {
        let path = self.path(id, name);
        let what = format!("could not read {}", self.url(&path));
        let got = self.plain.get(&path).await.map_err(|e| match e {
            object_store::Error::NotFound { .. } => Failure::unverified(format!("{id}: {name} is missing")),
            e => failure(&what, &e),
        })?;
        Ok(Reader { what, stream: got.into_stream() })
    }

    async fn remove(&self, path: &Path) -> Result<(), Failure> {
        match self.plain.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(failure(&format!("could not remove {}", self.url(path)), &e)),
        }
    }

    pub(super) async fn delete(&self, id: &str) -> Result<(), Failure> {
        let (manifest, started) = (self.path(id, MANIFEST), self.path(id, STARTED));
        let begun = self.get(&started).await?;
        let objects = self.objects(&self.dir(id)).await?;
        let manifest_object = objects.iter().find(|object| object.location == manifest);
        if manifest_object.is_some() {
            // Without a manifest and without this it would look like nobody's.
            let upload = self.manifest(id).await?.and_then(|text| Manifest::parse(id, &text).ok()?.upload);
            let marked = Started { at: Timestamp::now(), uploads: Vec::new() };
            self.put_started(id, &marked, upload.as_ref(), PutMode::Overwrite).await?;
            self.remove(&manifest).await?;
        }
        if let Some(begun) = begun.and_then(|(text, _)| serde_json::from_slice::<Started>(&text).ok()) {
            for (name, upload_id) in begun.uploads {
                let path = self.path(id, &name);
                match self.plain.abort_multipart(&path, &upload_id).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => return Err(failure(&format!("could not abort the upload of {}", self.url(&path)), &e)),
                }
            }
        }
        for object in objects.iter().filter(|object| object.location != manifest && object.location != started) {
            self.remove(&object.location).await?;
        }
        self.remove(&started).await
    }
}

fn built(builder: AmazonS3Builder) -> Result<AmazonS3, Failure> {
    builder.build().map_err(|e| failure("S3", &e))
}

fn is_bucket_missing(e: &object_store::Error) -> bool {
    let object_store::Error::NotFound { source, .. } = e else { return false };
    source.to_string().contains("NoSuchBucket")
}

/// A backup that is being made.
pub(crate) struct Draft {
    s3: S3,
    id: String,
    upload: Option<Upload>,
    started: Rc<RefCell<Started>>,
}

impl Draft {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    async fn say(&self) -> Result<(), Failure> {
        let started = self.started.borrow().clone();
        self.s3.put_started(&self.id, &started, self.upload.as_ref(), PutMode::Overwrite).await.map(|_| ())
    }

    pub(super) async fn touch(&self) -> Result<(), Failure> {
        self.say().await
    }

    /// `expected` bytes decide how large the parts are: there may be twice as many bytes, and more.
    pub(super) async fn write(&self, name: &str, expected: u64) -> Result<Writer, Failure> {
        let client = self.s3.writing(self.upload.as_ref())?;
        let path = self.s3.path(&self.id, name);
        let what = format!("could not write {}", self.s3.url(&path));
        let storage_class = self.upload.as_ref().and_then(|upload| upload.storage_class.clone());
        let attributes = Attributes::from_iter(storage_class.map(|class| (Attribute::StorageClass, class)));
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload_id = client.create_multipart_opts(&path, options).await.map_err(|e| failure(&what, &e))?;
        self.started.borrow_mut().uploads.push((name.to_owned(), upload_id.clone()));
        self.say().await?;
        let part_bytes = usize::try_from(part_bytes(expected)).unwrap_or(usize::MAX);
        let (buffer, parts) = (BytesMut::with_capacity(part_bytes), BTreeMap::new());
        Ok(Writer { client, path, upload_id, what, part_bytes, buffer, begun: 0, running: JoinSet::new(), parts })
    }
}

fn part_bytes(expected: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    PART_BYTES.max((expected / (PARTS_MAX / 2)).div_ceil(MIB) * MIB)
}

/// An object that is being written.
pub(crate) struct Writer {
    client: Arc<AmazonS3>,
    path: Path,
    upload_id: String,
    /// What failed, if it fails.
    what: String,
    part_bytes: usize,
    /// The part that is being filled.
    buffer: BytesMut,
    /// Parts that have been sent, or are being sent.
    begun: usize,
    running: JoinSet<(usize, object_store::Result<PartId>)>,
    parts: BTreeMap<usize, PartId>,
}

impl Writer {
    pub(super) async fn write(&mut self, bytes: &Bytes) -> Result<(), Failure> {
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            let room = (self.part_bytes - self.buffer.len()).min(bytes.len());
            self.buffer.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if self.buffer.len() == self.part_bytes {
                self.send().await?;
            }
        }
        // A part that failed is known before the next one is full.
        while let Some(done) = self.running.try_join_next() {
            self.ended(done)?;
        }
        Ok(())
    }

    /// Sends the part that is full, as soon as not too many are under way.
    async fn send(&mut self) -> Result<(), Failure> {
        if self.running.len() == PARALLEL {
            self.join().await?;
        }
        let part = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(self.part_bytes)).freeze();
        let (client, path, upload_id, index) =
            (Arc::clone(&self.client), self.path.clone(), self.upload_id.clone(), self.begun);
        self.begun += 1;
        self.running.spawn(async move { (index, client.put_part(&path, &upload_id, index, part.into()).await) });
        Ok(())
    }

    async fn join(&mut self) -> Result<(), Failure> {
        match self.running.join_next().await {
            Some(done) => self.ended(done),
            None => Ok(()),
        }
    }

    fn ended(
        &mut self,
        done: Result<(usize, object_store::Result<PartId>), tokio::task::JoinError>,
    ) -> Result<(), Failure> {
        let (index, part) = done.map_err(|e| Failure::failed(format!("{}: {e}", self.what)))?;
        self.parts.insert(index, part.map_err(|e| failure(&self.what, &e))?);
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        // An object of no bytes has one part all the same.
        if !self.buffer.is_empty() || self.begun == 0 {
            self.send().await?;
        }
        while !self.running.is_empty() {
            self.join().await?;
        }
        let parts = std::mem::take(&mut self.parts).into_values().collect();
        let completed = self.client.complete_multipart(&self.path, &self.upload_id, parts).await;
        completed.map(|_| ()).map_err(|e| failure(&self.what, &e))
    }
}

/// An object that is being read.
pub(crate) struct Reader {
    /// What failed, if it fails.
    what: String,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
}

impl Reader {
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.stream.next().await {
                None => return Ok(None),
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => return Ok(Some(bytes)),
                Some(Err(e)) => return Err(failure(&self.what, &e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_are_enough() {
        assert_eq!(part_bytes(0), PART_BYTES);
        for expected in [1u64 << 40, 5 << 40] {
            assert!(part_bytes(expected) * PARTS_MAX >= 2 * expected, "{expected}");
        }
    }
}
