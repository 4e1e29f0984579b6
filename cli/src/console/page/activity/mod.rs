//! `/w/{workspace}/activity`: calls, errors and misses of the last half hour, from the services' metrics.

mod chart;
mod figures;
mod parts;

use std::convert::Infallible;

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
        app::SharedApp,
        guard::PageRequest,
        live_streams::LiveStream,
        view::{Section, message_page},
    },
    failure::FailureKind,
};

pub(in crate::console) async fn show(InWorkspace(workspace): InWorkspace, visit: PageRequest) -> Response {
    let (name, app) = (workspace.as_str(), &visit.app);
    let (found, ()) = tokio::join!(app.services.workspace(name), app.activity.sample_for(name));
    // Metrics are needed most while the vault is down.
    if let Err(failure) = found
        && failure.kind != FailureKind::Unavailable
    {
        return failure_page(&visit, Section::Workspaces, failure);
    }
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

fn figures_of(app: &SharedApp, workspace: &str) -> Markup {
    app.activity
        .show(workspace, |view| parts::figures(workspace, view))
}

/// Answers with an event for each sample, until the session or the console ends.
pub(in crate::console) async fn live(InWorkspace(workspace): InWorkspace, visit: PageRequest) -> Response {
    let Ok(stream) = visit.app.live_streams.open(&visit.session) else {
        return message_page(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many pages are live",
            "Close one of them. This page tries again every few seconds.",
        );
    };
    // One event waits for a browser that reads slowly. Newer samples replace each other until the browser has read the event.
    let (events, body) = mpsc::channel(1);
    tokio::spawn(send_samples(visit, workspace.as_str().to_owned(), stream, events));
    Sse::new(ReceiverStream::new(body)).into_response()
}

async fn send_samples(
    visit: PageRequest,
    workspace: String,
    stream: LiveStream,
    events: mpsc::Sender<Result<Event, Infallible>>,
) {
    let app = &visit.app;
    let samples = async {
        let mut viewer = app.activity.watch(&workspace);
        loop {
            viewer.next_sample(&workspace).await;
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
            drop(events.try_send(Ok(Event::default().event("replaced").data(""))));
        }
    }
}
