//! Measures the vault alone, beside OpenBao.

use std::path::Path;

use crate::{
    Common, Failure,
    decrypts::{DecryptMode, Decrypts},
    openbao::OpenBao,
    run::{Contest, ContestKind, Participant, Workload, contest},
    services::Vault,
};

/// The ways in which the vault is called: unary calls with values in clear or sealed, and streams like those of an
/// injector under heavy and light load.
pub(crate) const OURS: [DecryptMode; 4] = [
    DecryptMode::Unary { sealed: false },
    DecryptMode::Unary { sealed: true },
    STREAMED,
    DecryptMode::Stream { at_once: 5 },
];
/// The stream of an injector under heavy load, for which there is an aim.
pub(crate) const STREAMED: DecryptMode = DecryptMode::Stream { at_once: 50 };
/// Number of secrets in OpenBao, which more secrets would not make faster.
const OPENBAO_SECRETS: u32 = 100;

pub(crate) async fn measure(
    common: &Common,
    bin_dir: &Path,
    scratch: &Path,
    contests: &mut Vec<Contest>,
) -> Result<(), Failure> {
    let openbao = OpenBao::start(&common.peers, scratch, OPENBAO_SECRETS).await?;
    let mut vault = Vault::start(bin_dir, scratch, "vault-alone").await?;
    for (index, secrets) in common.counts().into_iter().enumerate() {
        vault.fill(secrets).await?;
        let mut entries: Vec<(Participant, Workload)> = OURS
            .into_iter()
            .map(|mode| {
                (
                    Participant::Vault(mode),
                    Workload::Decrypts(Decrypts::new(mode, &vault, secrets)),
                )
            })
            .collect();
        // The vault with an audit log runs only until this contest ends.
        let _audited = if index == 0 {
            let audited = Vault::start_audited(bin_dir, scratch, secrets).await?;
            entries.extend(OURS.map(|mode| {
                let decrypts = Decrypts::new(mode, &audited, secrets);
                (Participant::Audited(mode), Workload::Decrypts(decrypts))
            }));
            let ((load, target), (transit, transit_target)) =
                (openbao.reads(OPENBAO_SECRETS), openbao.decrypts());
            entries.push((Participant::OpenBaoRead, Workload::Calls(load, target)));
            entries.push((
                Participant::OpenBaoTransit,
                Workload::Calls(transit, transit_target),
            ));
            Some(audited)
        } else {
            None
        };
        contests.push(contest(common, scratch, ContestKind::Vault { secrets }, entries).await?);
    }
    Ok(())
}
