//! The live view of a run, drawn beside it.

use crate::cluster::Cluster;
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Dropping it gives the terminal back, so that what went wrong can be read.
pub(crate) struct Beside {
    done: Option<oneshot::Sender<()>>,
    drawn: Option<JoinHandle<Result<()>>>,
}

impl Beside {
    pub(crate) fn open(cluster: Arc<Cluster>, title: &str) -> Self {
        let (done, over) = oneshot::channel();
        let title = title.to_owned();
        let drawn = tokio::spawn(async move {
            let over = async {
                let _ = over.await;
            };
            super::watch(&cluster, &title, None, over).await
        });
        Self { done: Some(done), drawn: Some(drawn) }
    }

    /// Waits until the terminal is given back, and the cluster with it.
    ///
    /// *Errors*: what ended the view before the run.
    pub(crate) async fn close(mut self) -> Result<()> {
        drop(self.done.take());
        match self.drawn.take() {
            Some(drawn) => drawn.await.context("the view broke")?,
            None => Ok(()),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(drawn) = self.drawn.take() {
            drawn.abort();
            super::give_back();
        }
    }
}
