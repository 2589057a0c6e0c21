//! `harena link`: several objects to one file.

use anyhow::Context;

use crate::Failure;
use crate::plan::LinkPlan;
use crate::status::Status;

/// Writes what the objects became.
pub(crate) fn link(plan: &LinkPlan) -> Result<Status, Failure> {
    let name = plan.output.display();
    std::fs::write(&plan.output, &plan.object.bytes)
        .with_context(|| format!("cannot write `{name}`"))?;
    Ok(Status::Fine)
}
