//! The worker processes of a job: started, missed, started again, let go.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Workers that die one after the other before they have said a word: the next would, too.
const STILLBORN_MAX: u32 = 5;
/// How long the reason of a broken connection is looked for.
const CORONER_PATIENCE: Duration = Duration::from_millis(100);
/// How long a worker that was let go may take.
const GOODBYE_PATIENCE: Duration = Duration::from_millis(500);

/// How workers are started: this program with these arguments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recipe {
    /// The words before `worker` on the command line.
    pub(crate) prefix: Vec<String>,
    pub(crate) output: PathBuf,
}

/// The workers that this host has started.
pub(crate) struct Workers {
    recipe: Recipe,
    wanted: u32,
    children: Vec<(Child, bool)>,
    stillborn: u32,
    last_status: Option<ExitStatus>,
}

impl Workers {
    pub(crate) fn start(recipe: Recipe, wanted: u32) -> Result<Self> {
        let mut this = Self {
            recipe,
            wanted,
            children: Vec::new(),
            stillborn: 0,
            last_status: None,
        };
        this.replace_dead()?;
        Ok(this)
    }

    /// This process has said hello.
    pub(crate) fn joined(&mut self, pid: u32) {
        self.stillborn = 0;
        if let Some((_, joined)) = self
            .children
            .iter_mut()
            .find(|(child, _)| child.id() == pid)
        {
            *joined = true;
        }
    }

    /// Starts one for each that has died.
    ///
    /// # Errors
    /// If none can be started, or they die before they join.
    pub(crate) fn replace_dead(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.children.len() {
            let (child, joined) = &mut self.children[at];
            match child.try_wait() {
                Ok(None) => at += 1,
                Ok(Some(status)) => {
                    self.stillborn += u32::from(!*joined);
                    self.last_status = Some(status);
                    self.children.swap_remove(at);
                }
                Err(error) => return Err(Error::io("wait for a worker")(error)),
            }
        }
        if self.stillborn >= STILLBORN_MAX {
            let status = self
                .last_status
                .map_or(String::new(), |status| status.to_string());
            return Err(Error::new(format!(
                "workers end before they begin: {status}"
            )));
        }
        while self.children.len() < self.wanted as usize {
            let program = std::env::current_exe().map_err(Error::io("find this program"))?;
            let child = Command::new(program)
                .args(&self.recipe.prefix)
                .arg("worker")
                .arg("--job")
                .arg(&self.recipe.output)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .map_err(Error::io("start a worker"))?;
            self.children.push((child, false));
        }
        Ok(())
    }

    /// Why the connection of this process has ended, as far as can be found out soon.
    pub(crate) fn cause_of_death(&mut self, pid: u32) -> String {
        let began = Instant::now();
        let ours = self
            .children
            .iter_mut()
            .find(|(child, _)| child.id() == pid);
        let Some((child, _)) = ours else {
            return "its worker left".to_owned();
        };
        while began.elapsed() < CORONER_PATIENCE {
            if let Ok(Some(status)) = child.try_wait() {
                return format!("its worker (pid {pid}) ended: {status}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        format!("its worker (pid {pid}) closed the connection")
    }

    /// Waits for the workers, which were told to go, and ends those that do not.
    pub(crate) fn dismiss(mut self) {
        let began = Instant::now();
        for (child, _) in &mut self.children {
            while began.elapsed() < GOODBYE_PATIENCE && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
