//! What this node knows over restarts of the functions that it provisions: a small JSON file each, `functions/<hex>`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use membership::{FunctionId, Seniority, Stamp};
use serde::{Deserialize, Serialize};
use transfer::digest::Digest;
use transfer::reference::Reference;

use crate::whole::write_whole;

/// One function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) reference: Reference,
    pub(crate) stamp: Stamp,
    pub(crate) state: RecordState,
    pub(crate) lazy: bool,
}

/// How far a function was when its record was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RecordState {
    Provisioning,
    Ready,
    /// Its place in the tree was given up.
    Failed,
}

impl Record {
    /// What it joins with.
    pub(crate) fn seniority(&self) -> Seniority {
        match self.state {
            RecordState::Provisioning | RecordState::Ready => Seniority::Kept(self.stamp),
            RecordState::Failed => Seniority::GivenUp(self.stamp),
        }
    }
}

/// All of them.
pub(crate) struct Records {
    directory: PathBuf,
}

impl Records {
    /// Those of a data directory.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        let directory = root.join("functions");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory })
    }

    fn path(&self, id: FunctionId) -> PathBuf {
        self.directory.join(Digest::from(id).hex())
    }

    /// One function's, if there is one that can be read.
    pub(crate) fn get(&self, id: FunctionId) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.path(id)).ok()?).ok()
    }

    /// Keeps one function's, in place of an older one.
    pub(crate) fn save(&self, id: FunctionId, record: &Record) -> std::io::Result<()> {
        let json = serde_json::to_vec(record).map_err(std::io::Error::other)?;
        write_whole(&self.path(id), &json)
    }

    /// All that can be read.
    pub(crate) fn all(&self) -> impl Iterator<Item = (FunctionId, Record)> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let id = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
            Some((id, self.get(id)?))
        })
    }
}
