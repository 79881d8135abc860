//! Where the jobs of a cluster are, and who may take part in them.

use std::path::PathBuf;

use clap::Args;

use crate::error::{Error, Result};
use crate::host::shared::Site;
use crate::store::StoreOptions;
use kvorum_secret::Secret;

/// What coordinators and workers of a cluster know of each other, and how they are reached. Without
/// `--cluster` a job is one of this machine.
#[derive(Args)]
pub(crate) struct SiteOptions {
    /// Work with a cluster: clients' addresses of its nodes or routers
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    cluster: Vec<String>,
    /// The cluster's password, if it has one
    #[arg(
        long,
        env = "KVORUM_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    password: Option<String>,
    /// With --cluster: file with the secret of all coordinators and workers, 64 hexadecimal digits
    #[arg(long, env = "KVORUM_MR_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// With --cluster: the address to listen on, which the others must reach. Port 0 is any
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: String,
}

impl SiteOptions {
    /// The site; `None` without a cluster.
    pub(crate) fn site(self) -> Result<Option<Site>> {
        if self.cluster.is_empty() {
            return Ok(None);
        }
        let secret_file = self
            .secret_file
            .ok_or_else(|| Error::new("with --cluster a secret is needed: --secret-file"))?;
        Ok(Some(Site {
            store: StoreOptions {
                cluster: self.cluster,
                password: self.password,
            },
            secret: Secret::read(&secret_file).map_err(Error::new)?,
            secret_file,
            listen: self.listen,
        }))
    }
}
