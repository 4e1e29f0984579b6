//! `/w/{workspace}/activity`: calls, errors and misses of the last half hour, from the services' metrics.

mod chart;
mod charts;
mod figures;
mod parts;
mod remedy;

use std::{convert::Infallible, time::Duration};

use axum::response::{IntoResponse as _, Response, Sse, sse::Event};
use http::StatusCode;
use maud::{Markup, html};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    frame::{Tab, failure_page, render, workspace_head},
    paths::InWorkspace,
};
use crate::{
    console::{
        activity::Viewer,
        app::SharedApp,
        guard::PageRequest,
        live_streams::LiveStream,
        view::{Section, message_page},
        workspace_access::WorkspaceAccess,
    },
    failure::FailureKind,
};

/// Time that the last event of a stream waits for a browser that reads slowly.
const LAST_EVENT: Duration = Duration::from_secs(5);

pub(in crate::console) async fn show(InWorkspace(workspace): InWorkspace, visit: PageRequest) -> Response {
    let (name, app) = (workspace.as_str(), &visit.app);
    if let Err(refused) = check_access(&visit, name).await {
        return refused;
    }
    app.activity.sample_for(name).await;
    let body = html! {
        (workspace_head(name, Tab::Activity))
        div.activity-head {
            p.quiet {
                "Counted while a page like this one is open, and kept for 30 minutes in the memory of this console. "
                noscript { "Without JavaScript the page shows the figures of the moment: reload it for new ones." }
            }
            span.quiet role="status" data-stream-note {}
            button.button.small type="button" data-pause aria-pressed="false" hidden { "Pause" }
        }
        div.activity data-stream={ "/w/" (name) "/activity/live" } { (figures_of(app, name)) }
    };
    render(&visit, &format!("Activity of {name}"), Section::Workspaces, &body)
}

/// Refuses a workspace that does not exist or that the identity may not read, before anything of it is kept.
async fn check_access(visit: &PageRequest, workspace: &str) -> Result<(), Response> {
    let services = &visit.app.services;
    let access = match services.workspace_access(workspace).await {
        // The answer for a viewer says nothing about the right to read.
        Ok(WorkspaceAccess::Viewer) => services.servers(workspace).await.map(drop),
        answer => answer.map(drop),
    };
    match access {
        // Metrics are needed most while a service is down.
        Err(failure) if failure.kind != FailureKind::Unavailable => {
            Err(failure_page(visit, Section::Workspaces, failure))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn figures_of(app: &SharedApp, workspace: &str) -> Markup {
    app.activity
        .show(workspace, |view| parts::figures(workspace, view))
}

/// Answers with an event for each sample, until the session or the console ends.
pub(in crate::console) async fn live(InWorkspace(workspace): InWorkspace, visit: PageRequest) -> Response {
    if let Err(refused) = check_access(&visit, workspace.as_str()).await {
        return refused;
    }
    let Ok(viewer) = visit.app.activity.watch(workspace.as_str()) else {
        return message_page(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many workspaces are watched",
            "Close the activity of another workspace. This page tries again every few seconds.",
        );
    };
    let Ok(stream) = visit.app.live_streams.open(&visit.session) else {
        return message_page(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many pages are live",
            "Close one of them. This page tries again every few seconds.",
        );
    };
    // One event waits for a browser that reads slowly. Newer samples replace each other until the browser has read the event.
    let (events, body) = mpsc::channel(1);
    let workspace = workspace.as_str().to_owned();
    tokio::spawn(send_samples(visit, workspace, viewer, stream, events));
    Sse::new(ReceiverStream::new(body)).into_response()
}

async fn send_samples(
    visit: PageRequest,
    workspace: String,
    mut viewer: Viewer,
    stream: LiveStream,
    events: mpsc::Sender<Result<Event, Infallible>>,
) {
    let app = &visit.app;
    let samples = async {
        loop {
            viewer.next_sample().await;
            // An event must not contain CR (HTML, section 9.2.6), and its data is split at LF.
            let html = figures_of(app, &workspace).into_string().replace('\r', " ");
            if events
                .send(Ok(Event::default().event("sample").data(html)))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = samples => {}
        () = events.closed() => {}
        () = visit.session.ended.cancelled() => {}
        () = app.stopping.cancelled() => {}
        () = stream.replaced.cancelled() => {
            // A browser that has not read the last event learns from the end of the stream.
            let replaced = Event::default().event("replaced").data("");
            drop(events.send_timeout(Ok(replaced), LAST_EVENT).await);
        }
    }
}
