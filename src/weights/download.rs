//! Published checkpoints from the authors' server.

use super::registry::Published;
use crate::atomic_file::AtomicFile;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::tls::{RootCerts, TlsConfig};

/// Bytes that no published checkpoint comes near (the largest has 45 million parameters); what a server sends beyond is none.
const LARGEST: u64 = 1 << 30;
/// To connect, and again until the server begins its answer. Nothing bounds the file itself: lines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Downloads a published checkpoint into `folder`, which is made if need be, under its official name, and returns its
/// path. `mirror` is the address of a folder on another server (HTTP or HTTPS) that holds the file under that name.
/// Proxies are taken from the environment (`HTTPS_PROXY` and the like).
///
/// The file appears complete or not at all, and only if its SHA-256 begins as the authors' name for it says
/// ([`Published::sha256_prefix`]). `progress` is told the bytes that have come, and how many there will be where the
/// server says so.
///
/// # Errors
/// [`Error::Download`] if the server cannot be reached, refuses, stops early, or sends another file; [`Error::Io`] if
/// the file cannot be written. What was there under that name stays then.
pub fn download(
    model: &Published,
    mirror: Option<&str>,
    folder: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf> {
    let name = model.file_name();
    let address = mirror.map_or_else(|| model.url.into(), |m| format!("{}/{name}", m.trim_end_matches('/')));
    let failed = |what: String| Error::Download { address: address.clone(), what };
    let proxy = if is_local(&address) { None } else { ureq::Proxy::try_from_env() };
    let agent = ureq::Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .user_agent(concat!("rtmo-engine/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy)
        // The system's, which know the certificates of companies' proxies too.
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .build()
        .new_agent();
    let mut answer = agent.get(&address).call().map_err(|e| failed(e.to_string()))?;
    let length = answer.body().content_length();

    fs::create_dir_all(folder).map_err(Error::io("cannot make the folder", folder))?;
    let path = folder.join(name);
    let mut file = AtomicFile::create(&path)?;
    let (mut hash, mut come) = (Sha256::new(), 0);
    let mut body = answer.body_mut().as_reader();
    let mut buffer = vec![0; CHUNK];
    loop {
        progress(come, length);
        let chunk = next(&mut body, &mut buffer).map_err(|e| failed(format!("after {come} bytes: {e}")))?;
        if chunk.is_empty() {
            break;
        }
        come += chunk.len() as u64;
        if come > LARGEST {
            return Err(failed(format!("more than {LARGEST} bytes, which no published checkpoint has")));
        }
        hash.update(chunk);
        file.write_all(chunk).map_err(Error::io("cannot write", &path))?;
    }
    if length.is_some_and(|length| length != come) {
        return Err(failed(format!("{come} bytes came, expected {}", length.unwrap_or(0))));
    }
    let hash = hex(&hash.finalize());
    if !hash.starts_with(model.sha256_prefix()) {
        return Err(failed(format!(
            "not the published file: its SHA-256 is {hash} ({come} bytes), expected {}...",
            model.sha256_prefix()
        )));
    }
    file.commit()?;
    Ok(path)
}

/// Whether a file that has a published checkpoint's official name is that file, by its SHA-256; of files with other names (converted
/// ones, say) nothing is known, and they count as it.
///
/// # Errors
/// If the file cannot be read.
pub fn is_published(model: &Published, path: &Path) -> Result<bool> {
    if path.file_name().is_none_or(|name| name != model.file_name()) {
        return Ok(true);
    }
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(Error::io("cannot open", path))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match next(&mut file, &mut buffer).map_err(Error::io("cannot read", path))? {
            [] => break,
            chunk => hash.update(chunk),
        }
    }
    Ok(hex(&hash.finalize()).starts_with(model.sha256_prefix()))
}

/// Bytes read at a time.
const CHUNK: usize = 1 << 16;

/// What comes next; nothing at the end. A process that was suspended reads on.
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

/// Whether an address is on this machine, where no proxy leads.
fn is_local(address: &str) -> bool {
    let Ok(uri) = address.parse::<ureq::http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
