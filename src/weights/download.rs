//! Published checkpoints from the authors' server.
//!
//! What protects the user:
//!
//! 1. The file appears under its name only if its SHA-256 is right. Where only the 32 bits in its name are known, the
//!    whole hash is kept at the first download, and later downloads must have the same.
//! 2. HTTPS is never left for HTTP, and plain HTTP needs the caller's consent.
//! 3. A server that stops sending is given up.
//! 4. No more bytes are read than a checkpoint has.
//! 5. Passwords in addresses are not shown.

use super::registry::Published;
use crate::atomic_file::{self, AtomicFile};
use crate::error::{Error, Result, shown};
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{Response, StatusCode, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};

/// Most bytes of a download. The largest published checkpoint has 45 million parameters, 180 MB.
const LARGEST: u64 = 1 << 30;

/// Where from and how a checkpoint is downloaded.
#[derive(Clone, Debug)]
pub struct DownloadOptions {
    /// Address of a folder on another server that holds the files under their official names.
    pub mirror: Option<String>,
    /// Permits plain HTTP: others on the way see what is fetched, and can change it.
    pub allow_http: bool,
    /// How long to find the server, and again how long to connect.
    pub connect: Duration,
    /// How long the server may send nothing.
    pub stall: Duration,
    /// Fetches also what is there already.
    pub force: bool,
}

impl Default for DownloadOptions {
    /// The authors' server over HTTPS, 10 s to connect, 30 s between two reads.
    fn default() -> DownloadOptions {
        DownloadOptions {
            mirror: None,
            allow_http: false,
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            force: false,
        }
    }
}

/// What a download is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process fetches the same file; this one takes over what that leaves.
    Waiting,
    /// Bytes of the file that are here, and how many it has where the server says so.
    Bytes(u64, Option<u64>),
}

/// Whether a file is the published one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its SHA-256 is that of the published file.
    Whole,
    /// Its SHA-256 is that of the file that was downloaded first, whose first 32 bits are those of the published file.
    Pinned,
    /// The first 32 bits of its SHA-256 are those of the published file. No more is known of that.
    Prefix,
    /// It has the published file's name, but is another: what was expected and what was found.
    Different(String),
    /// It has another name, for instance after a conversion, so nothing is known about it.
    Unnamed,
}

/// The address that `model` is downloaded from, without passwords.
pub fn address(model: &Published, options: &DownloadOptions) -> String {
    hide_secrets(&full_address(model, options))
}

fn full_address(model: &Published, options: &DownloadOptions) -> String {
    let mirror = options.mirror.as_deref();
    mirror.map_or_else(|| model.url.into(), |m| format!("{}/{}", m.trim_end_matches('/'), model.file_name()))
}

/// Downloads a published checkpoint into `folder`, which is made if need be, under its official name, and returns its
/// path. What is there already is not fetched again, unless it is another file. Proxies are taken from the environment
/// (`HTTPS_PROXY` and the like).
///
/// The file appears complete or not at all, and only if it is the published one as far as can be told ([`Standing`]).
/// Where only 32 bits of its SHA-256 are known, all of them are written beside it (`NAME.sha256`, as `sha256sum` does),
/// and a later download must have the same. What came before a download was cut is kept beside it (`.NAME.part`) if the
/// server gave it an ETag, and the next one goes on from there. Of several processes one fetches, the others wait for
/// it (`.NAME.lock`).
///
/// # Errors
/// [`Error::Download`] if the server cannot be reached, refuses, stalls, stops early, sends another file, or speaks
/// plain HTTP unasked; [`Error::Io`] if the file cannot be written. What was there under that name stays then.
pub fn download(
    model: &Published,
    folder: &Path,
    options: &DownloadOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf> {
    let transfer = Transfer::new(model, options)?;
    fs::create_dir_all(folder).map_err(Error::io("cannot make the folder", folder))?;
    let path = folder.join(model.file_name());
    let hidden = |suffix: &str| folder.join(format!(".{}.{suffix}", model.file_name()));
    let lock = hidden("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock)
        .map_err(Error::io("cannot create", &lock))?;
    let waited = wait(&lock, progress);
    // Another process may have fetched it meanwhile.
    if (waited || !options.force)
        && path.is_file()
        && !matches!(standing(model, &path)?, Standing::Different(_))
    {
        return Ok(path);
    }
    let mut part = Part { path: hidden("part"), tag: hidden("part.etag") };
    let fetched = transfer.fetch(&mut part, progress)?;
    let pin = pin(&path);
    let judged = judge(model, &fetched, &pin)?;
    if let Standing::Different(what) = judged {
        part.discard();
        return Err(transfer.failed(format!("not the published file: {what}")));
    }
    if judged == Standing::Prefix {
        let mut file = AtomicFile::create(&pin)?;
        let line = format!("{}  {}\n", fetched.sha256, model.file_name());
        file.write_all(line.as_bytes()).map_err(Error::io("cannot write", &pin))?;
        file.commit()?;
    }
    fs::rename(&part.path, &path).map_err(Error::io("cannot write", &path))?;
    part.discard();
    Ok(path)
}

/// Whether a file that has a published checkpoint's official name is that file, by its SHA-256.
///
/// # Errors
/// If the file cannot be read.
pub fn standing(model: &Published, path: &Path) -> Result<Standing> {
    if path.file_name().is_none_or(|name| name != model.file_name()) {
        return Ok(Standing::Unnamed);
    }
    let file = File::open(path).map_err(Error::io("cannot open", path))?;
    let mut hash = Hash::default();
    hash.all_of(file).map_err(Error::io("cannot read", path))?;
    judge(model, &hash.content(), &pin(path))
}

/// A file's size and SHA-256 in hexadecimal.
struct Content {
    bytes: u64,
    sha256: String,
}

/// Whether this is the published file's content.
fn judge(model: &Published, found: &Content, pin: &Path) -> Result<Standing> {
    let Content { bytes, sha256 } = found;
    let different = |expected: String| {
        Ok(Standing::Different(format!("its SHA-256 is {sha256} ({bytes} bytes), expected {expected}")))
    };
    if let Some((known, length)) = model.content {
        return if sha256 == known {
            Ok(Standing::Whole)
        } else {
            different(format!("{known} ({length} bytes)"))
        };
    }
    if !sha256.starts_with(model.sha256_prefix()) {
        return different(format!("{}...", model.sha256_prefix()));
    }
    let pinned = match fs::read_to_string(pin) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Prefix),
        Err(error) => return Err(Error::io("cannot read", pin)(error)),
    };
    match pinned.split_whitespace().next() {
        Some(first) if first == sha256 => Ok(Standing::Pinned),
        first => different(format!(
            "{}, as {} has it from the first download",
            first.unwrap_or("none"),
            shown(pin)
        )),
    }
}

/// Where the hash of a file is written that was downloaded first.
fn pin(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".sha256");
    path.with_file_name(name)
}

/// Deletes a checkpoint that [`download`] put into `folder`, and what came of it before; a pinned hash stays. Returns
/// the bytes freed; `None` if there was nothing.
///
/// # Errors
/// If it cannot be deleted.
pub fn remove(model: &Published, folder: &Path) -> Result<Option<u64>> {
    let name = model.file_name();
    let mut freed = None;
    for name in [name.to_string(), format!(".{name}.part"), format!(".{name}.part.etag")] {
        let path = folder.join(name);
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        fs::remove_file(&path).map_err(Error::io("cannot delete", &path))?;
        freed = Some(freed.unwrap_or(0) + found.len());
    }
    Ok(freed)
}

/// Waits for other processes that fetch the same file; whether there was one. On file systems without locks no
/// process waits: two processes then fetch twice, and the last one's file stays.
fn wait(lock: &File, progress: &mut dyn FnMut(Progress)) -> bool {
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            progress(Progress::Waiting);
            lock.lock().is_ok()
        }
        Ok(()) | Err(TryLockError::Error(_)) => false,
    }
}

/// The beginning of a file, kept for the next attempt.
struct Part {
    path: PathBuf,
    /// The ETag of the file that it is the beginning of.
    tag: PathBuf,
}

impl Part {
    /// The bytes that are there, and the ETag to ask for the rest with.
    fn resume_point(&self) -> Option<(u64, String)> {
        let tag = fs::read_to_string(&self.tag).ok().filter(|tag| is_strong(tag))?;
        let len = fs::symlink_metadata(&self.path).ok().filter(|found| found.is_file())?.len();
        (len > 0).then_some((len, tag))
    }

    /// Deletes the files, if they are there.
    fn discard(&mut self) {
        atomic_file::lose_track(&self.path);
        fs::remove_file(&self.tag).ok();
        fs::remove_file(&self.path).ok();
    }
}

/// Whether an ETag promises the same bytes, not a similar page, and can be sent back.
fn is_strong(tag: &str) -> bool {
    let visible = |b: u8| b.is_ascii_graphic();
    tag.len() >= 2
        && tag.len() <= 256
        && tag.starts_with('"')
        && tag.ends_with('"')
        && tag.bytes().all(visible)
}

/// One file to fetch.
struct Transfer<'a> {
    address: String,
    agent: ureq::Agent,
    /// Bytes of the file, if they are known; else the most that are taken.
    length: std::result::Result<u64, u64>,
    options: &'a DownloadOptions,
}

impl<'a> Transfer<'a> {
    fn new(model: &Published, options: &'a DownloadOptions) -> Result<Transfer<'a>> {
        let address = full_address(model, options);
        let agent = agent(&address, options)
            .map_err(|what| Error::Download { address: hide_secrets(&address), what })?;
        let length = model.content.map(|(_, length)| length).ok_or(LARGEST);
        Ok(Transfer { address, agent, length, options })
    }

    fn failed(&self, what: impl AsRef<str>) -> Error {
        Error::Download { address: hide_secrets(&self.address), what: hide_secrets(what.as_ref()) }
    }

    /// Why the download failed.
    fn reason(&self, error: ureq::Error) -> String {
        match error {
            ureq::Error::Timeout(ureq::Timeout::PerRead | ureq::Timeout::RecvResponse) => {
                format!("nothing came for {} s", self.options.stall.as_secs_f32())
            }
            error => error.to_string(),
        }
    }

    fn ask(&self, resume: Option<&(u64, String)>) -> std::result::Result<Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(&self.address);
        if let Some((len, tag)) = resume {
            request = request.header(header::RANGE, format!("bytes={len}-")).header(header::IF_RANGE, tag);
        }
        request.call()
    }

    /// Fetches all of the file, or what is missing of it, into `part`.
    fn fetch(&self, part: &mut Part, progress: &mut dyn FnMut(Progress)) -> Result<Content> {
        let mut resume = part.resume_point();
        let mut answer = self.ask(resume.as_ref());
        let misfit = match &answer {
            Ok(answer) => {
                resume.is_some()
                    && answer.status() == StatusCode::PARTIAL_CONTENT
                    && !continues(answer, &resume)
            }
            Err(ureq::Error::StatusCode(code)) => *code == StatusCode::RANGE_NOT_SATISFIABLE.as_u16(),
            Err(_) => false,
        };
        if misfit {
            part.discard();
            resume = None;
            answer = self.ask(None);
        }
        let mut answer = answer.map_err(|error| self.failed(self.reason(error)))?;
        let start = match (answer.status(), &resume) {
            (StatusCode::PARTIAL_CONTENT, Some((len, _))) => *len,
            (StatusCode::PARTIAL_CONTENT, None) => {
                return Err(self.failed("sends a part of the file unasked"));
            }
            _ => 0,
        };
        let total = answer.body().content_length().map(|rest| start.saturating_add(rest));
        self.check_length(total)?;

        let unwritable = || Error::io("cannot write", &part.path);
        if start == 0 {
            // Removed first, so that a link of that name is not followed.
            fs::remove_file(&part.path).ok();
            fs::remove_file(&part.tag).ok();
        }
        let mut file = File::options()
            .create_new(start == 0)
            .read(true)
            .write(true)
            .open(&part.path)
            .map_err(unwritable())?;
        let mut hash = Hash::default();
        if start == 0 {
            // Without an ETag a later download cannot resume, so nothing is kept.
            let tag = answer
                .headers()
                .get(header::ETAG)
                .and_then(|tag| tag.to_str().ok())
                .filter(|tag| is_strong(tag));
            match tag {
                Some(tag) => fs::write(&part.tag, tag).map_err(Error::io("cannot write", &part.tag))?,
                None => atomic_file::keep_track(&part.path),
            }
        } else {
            hash.all_of(Read::by_ref(&mut file).take(start)).map_err(Error::io("cannot read", &part.path))?;
            file.seek(io::SeekFrom::Start(hash.bytes)).map_err(unwritable())?;
        }
        let came = self.receive(&mut answer, &mut file, (&mut hash, total), progress, &part.path);
        match came {
            Ok(()) => {
                // Some file systems report a full disk only now.
                file.sync_all().map_err(unwritable())?;
                Ok(hash.content())
            }
            Err(error) => {
                drop(file);
                if part.resume_point().is_none() {
                    part.discard();
                }
                Err(error)
            }
        }
    }

    /// Takes in the answer's body.
    fn receive(
        &self,
        answer: &mut Response<ureq::Body>,
        file: &mut File,
        (hash, total): (&mut Hash, Option<u64>),
        progress: &mut dyn FnMut(Progress),
        path: &Path,
    ) -> Result<()> {
        let (known, most) = (self.length.ok(), self.length.unwrap_or_else(|most| most));
        // One byte beyond `most` shows that it is another file.
        let mut body = answer.body_mut().as_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            progress(Progress::Bytes(hash.bytes, total.or(known)));
            let chunk = next(&mut body, &mut buffer).map_err(|error| {
                self.failed(format!("after {} bytes: {}", hash.bytes, self.reason(error.into())))
            })?;
            if chunk.is_empty() {
                break;
            }
            if hash.bytes + chunk.len() as u64 > most {
                return Err(self.failed(format!("more than {most} bytes, which the file does not have")));
            }
            hash.add(chunk);
            file.write_all(chunk).map_err(Error::io("cannot write", path))?;
        }
        match total.filter(|&total| total != hash.bytes) {
            Some(total) => Err(self.failed(format!("{} bytes came, expected {total}", hash.bytes))),
            None => Ok(()),
        }
    }

    /// Refuses a file whose size is wrong before it comes.
    fn check_length(&self, total: Option<u64>) -> Result<()> {
        let expected = match (total, self.length) {
            (Some(total), Ok(known)) if total != known => known.to_string(),
            (Some(total), Err(most)) if total > most => format!("at most {most}"),
            _ => return Ok(()),
        };
        let total = total.unwrap_or_default();
        Err(self.failed(format!("not the published file: it has {total} bytes, expected {expected}")))
    }
}

/// Whether an answer begins where the bytes that are here end: `Content-Range: bytes 1000-1999/2000`.
fn continues(answer: &Response<ureq::Body>, resume: &Option<(u64, String)>) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
    resume.as_ref().is_some_and(|(len, _)| first == Some(*len))
}

/// The HTTP client for the server of `address`.
fn agent(address: &str, options: &DownloadOptions) -> std::result::Result<ureq::Agent, String> {
    let uri = address.parse::<Uri>().map_err(|error| format!("not an address: {error}"))?;
    let encrypted = match uri.scheme_str() {
        Some("https") => true,
        Some("http") if options.allow_http => false,
        Some("http") => {
            return Err("plain HTTP, where others can see and change what is fetched: expected https, or the consent of \
                        --allow-http"
                .into());
        }
        _ => return Err("expected an address that begins with https://".into()),
    };
    let proxy = if is_local(&uri) { None } else { ureq::Proxy::try_from_env() };
    let config = ureq::Agent::config_builder()
        .https_only(encrypted)
        .timeout_resolve(Some(options.connect))
        .timeout_connect(Some(options.connect))
        .timeout_recv_response(Some(options.stall))
        .timeout_per_read(Some(options.stall))
        .timeout_per_write(Some(options.stall))
        .user_agent(concat!("rtmo-engine/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy)
        // The system's, which know the certificates of companies' proxies too.
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build());
    Ok(config.build().new_agent())
}

/// Whether an address is on this machine, where no proxy leads.
fn is_local(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Text without the names, passwords and queries that addresses in it carry.
fn hide_secrets(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown += before;
        let ends = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '<' | '>' | ')');
        let (address, behind) = after.split_at(after.find(ends).unwrap_or(after.len()));
        let host = address.find(['/', '?', '#']).unwrap_or(address.len());
        let secret = address[..host].rfind('@').map_or(0, |at| at + 1);
        if secret > 0 {
            shown += "...@";
        }
        let address = &address[secret..];
        match address.split_once('?') {
            Some((plain, _)) => shown = shown + plain + "?...",
            None => shown += address,
        }
        rest = behind;
    }
    shown + rest
}

/// The SHA-256 of what has passed, and its length.
#[derive(Default)]
struct Hash {
    sha256: Sha256,
    bytes: u64,
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn all_of(&mut self, mut from: impl Read) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match next(&mut from, &mut buffer)? {
                [] => return Ok(()),
                chunk => self.add(chunk),
            }
        }
    }

    fn content(self) -> Content {
        Content { bytes: self.bytes, sha256: hex(&self.sha256.finalize()) }
    }
}

/// Bytes read at a time.
const CHUNK: usize = 1 << 16;

/// Reads the next chunk; empty at the end. An interrupted read is repeated.
fn next<'a>(from: &mut impl Read, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(|n| &buffer[..n]),
        }
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for (text, shown) in [
            ("https://a.b/c", "https://a.b/c"),
            (
                "https://me:pass@a.b:8/c?token=1 and 'http://x@y/z'",
                "https://...@a.b:8/c?... and 'http://...@y/z'",
            ),
            ("https://me:p@ss@a.b", "https://...@a.b"),
            ("bad uri: http://u:p@h?q", "bad uri: http://...@h?..."),
            ("https://a.b/c@d", "https://a.b/c@d"),
            ("no address", "no address"),
        ] {
            assert_eq!(hide_secrets(text), shown);
        }
    }

    #[test]
    fn https_is_not_left_and_http_needs_consent() {
        let ask =
            |address: &str, allow_http| agent(address, &DownloadOptions { allow_http, ..Default::default() });
        for allow_http in [false, true] {
            assert!(ask("https://a.b/c", allow_http).unwrap().config().https_only());
            assert!(ask("HTTPS://a.b/c", allow_http).unwrap().config().https_only());
            for none in ["ftp://a.b/c", "file:///etc/passwd", "a.b/c", "", "not an address"] {
                assert!(ask(none, allow_http).is_err(), "{none}");
            }
        }
        assert!(!ask("http://a.b/c", true).unwrap().config().https_only());
        assert!(ask("http://a.b/c", false).unwrap_err().contains("--allow-http"));
    }

    #[test]
    fn only_strong_tags_are_sent_back() {
        assert!(is_strong("\"5f-a\""));
        let long = format!("\"{}\"", "x".repeat(300));
        for tag in ["W/\"5f\"", "5f", "", "\"", "\"a\r\nb\"", &long] {
            assert!(!is_strong(tag), "{tag}");
        }
    }
}
