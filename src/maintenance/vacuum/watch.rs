//! How far the server is, by the views of its version.

use std::time::Duration;

use super::work::Running;
use crate::maintenance::progress::Progress;
use crate::maintenance::rows::row;
use crate::maintenance::server::{Server, Version};

const EVERY: Duration = Duration::from_millis(500);

row! {
    /// What one process does.
    Step {
        pid: i32,
        phase: String,
        done: i64,
        total: i64,
        /// What else the version tells; may be empty.
        detail: String,
    }
}

/// Shows it until it is dropped. That it cannot be asked for is no reason to end the work.
pub(super) async fn watch(server: &Server, progress: &Progress, running: impl Fn() -> (Vec<Running>, u64)) {
    let sql = steps_sql(server.version);
    loop {
        let (at_work, finished_bytes) = running();
        let pids: Vec<i32> = at_work.iter().map(|running| running.pid).collect();
        let steps: Vec<Step> = server.rows(&sql, &[&pids]).await.unwrap_or_default();
        let mut done = finished_bytes as f64;
        let mut texts = Vec::new();
        for running in &at_work {
            let step = steps.iter().find(|step| step.pid == running.pid);
            done += step.map_or(0.0, Step::share) * running.bytes as f64;
            texts.push(step.map_or_else(|| running.name.clone(), |step| step.text(&running.name)));
        }
        if !texts.is_empty() {
            progress.rename(texts.join("; "));
        }
        progress.at(done as u64);
        tokio::time::sleep(EVERY).await;
    }
}

impl Step {
    fn share(&self) -> f64 {
        if self.total > 0 { (self.done as f64 / self.total as f64).clamp(0.0, 1.0) } else { 0.0 }
    }

    fn text(&self, name: &str) -> String {
        let Step { phase, detail, .. } = self;
        let comma = if detail.is_empty() { "" } else { ", " };
        format!("{name}: {phase} {:.0} %{comma}{detail}", 100.0 * self.share())
    }
}

/// Version 17 has renamed the columns of memory and added those of indexes, 18 the time that cost limits have taken.
fn steps_sql(version: Version) -> String {
    let detail = match version.major() {
        ..17 => "case when num_dead_tuples > 0 then num_dead_tuples || ' of at most ' || max_dead_tuples || ' dead rows noted' end",
        _ => {
            "case when indexes_total > 0 then indexes_processed || ' of ' || indexes_total || ' indexes' end,
             case when num_dead_item_ids > 0 then num_dead_item_ids || ' dead rows noted in ' || pg_size_pretty(dead_tuple_bytes)
                  || ' of at most ' || pg_size_pretty(max_dead_tuple_bytes) end"
        }
    };
    let delay = if version.major() >= 18 {
        ", case when delay_time > 0 then round(delay_time::numeric / 1000, 1) || 's of cost delay' end"
    } else {
        ""
    };
    STEPS.replace("{detail}", &format!("{detail}{delay}"))
}

const STEPS: &str = "
    select pid, phase, heap_blks_scanned as done, heap_blks_total as total,
           concat_ws(', ', case when index_vacuum_count > 0 then index_vacuum_count || ' passes over the indexes' end, {detail})
               as detail
    from pg_stat_progress_vacuum where pid = any ($1)
    union all
    select pid, phase, heap_blks_scanned, heap_blks_total,
           concat_ws(', ', case when heap_tuples_written > 0 then heap_tuples_written || ' rows written' end,
                     case when index_rebuild_count > 0 then index_rebuild_count || ' indexes rebuilt' end)
    from pg_stat_progress_cluster where pid = any ($1)
    union all
    select pid, 'analyze: ' || phase, sample_blks_scanned, sample_blks_total,
           case when child_tables_total > 0 then child_tables_done || ' of ' || child_tables_total || ' partitions' else '' end
    from pg_stat_progress_analyze where pid = any ($1)";
