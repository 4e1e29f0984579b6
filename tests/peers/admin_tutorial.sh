#!/usr/bin/env bash
# How to administer the vault and the injector with grpcurl, step by step. It is a test too: it checks every answer,
# and stops with an error at the first that is not as it says.
#
#     aerostack dev                            # in one terminal
#     tests/peers/admin_tutorial.sh .aerostack # in another
#
# Needs grpcurl and jq. Works in a workspace of its own, `tutorial`, and leaves nothing behind.
set -euo pipefail

dev=${1:?usage: admin_tutorial.sh DIR, the folder of a running aerostack dev}

# `aerostack dev` says in ports.json where the services listen, and makes a certificate for the admin.
vault=$(jq -er .vault "$dev/ports.json")
injector=$(jq -er .injector "$dev/ports.json")
as_admin=(-cacert "$dev/pki/ca.pem" -cert "$dev/pki/admin.pem" -key "$dev/pki/admin-key.pem")

# One call. grpcurl asks the service itself what its messages look like, so it needs no .proto files. The request comes
# from standard input and not as an argument, because everyone on the machine can see the arguments.
vault() { grpcurl "${as_admin[@]}" -max-time 10 -d @ "$vault" "vault.v1.$1"; }
injector() { grpcurl "${as_admin[@]}" -max-time 10 -d @ "$injector" "injector.v1.$1"; }

step() { printf '\n# %s\n' "$*"; }

wrong() {
  printf 'WRONG: %s\n' "$@" >&2
  exit 1
}

# expect FILTER - the answer of the last call, in $answer, is as the jq filter says.
expect() { jq -e "$1" <<<"$answer" >/dev/null || wrong "expected $1" "got $answer"; }

# refused CODE REASON COMMAND.. - the call fails with this gRPC code and this reason of aerostack.v1.Reason.
refused() {
  local code=$1 reason=$2 output
  shift 2
  output=$("$@" 2>&1) && wrong "$*: expected $code, but it went well" "$output"
  grep -qF "Code: $code" <<<"$output" || wrong "$*: expected $code" "$output"
  grep -qF "\"reason\":\"$reason\"" <<<"$output" || wrong "$*: expected the reason $reason" "$output"
  echo "refused: $code, $reason"
}

tidy_up() {
  vault WorkspaceService/DeleteWorkspace <<<'{"name": "tutorial", "force": true}' || true
  vault WorkspaceService/DeleteWorkspace <<<'{"name": "tutorial-2", "force": true}' || true
  injector ServerService/RemoveServer <<<'{"workspace": "tutorial", "name": "github"}' || true
} >/dev/null 2>&1
trap tidy_up EXIT
tidy_up

# --- What is there -----------------------------------------------------------------------------------------------

step "The vault's services"
answer=$(grpcurl "${as_admin[@]}" "$vault" list | jq -Rn '[inputs]')
expect 'contains(["vault.v1.WorkspaceService", "vault.v1.SecretService", "vault.v1.DecryptService", "vault.v1.BackupService"])'
expect 'contains(["grpc.health.v1.Health"])'
expect 'all(startswith("injector.") | not)'

step "The injector's services"
answer=$(grpcurl "${as_admin[@]}" "$injector" list | jq -Rn '[inputs]')
expect 'contains(["injector.v1.ServerService", "grpc.health.v1.Health"])'
expect 'all(startswith("vault.") | not)'

step "What a service can do, and what a message holds"
grpcurl "${as_admin[@]}" "$vault" describe vault.v1.SecretService
answer=$(grpcurl "${as_admin[@]}" "$vault" describe vault.v1.Secret | jq -Rs .)
expect 'contains("string name = 2;")'
# What an admin can ever get back of a secret has no field for the value.
expect 'test("\\b(text|data|value) = [0-9]") | not'
grpcurl "${as_admin[@]}" "$injector" describe injector.v1.AuthType

step "Both are healthy"
answer=$(grpcurl "${as_admin[@]}" "$vault" grpc.health.v1.Health/Check)
expect '.status == "SERVING"'
answer=$(grpcurl "${as_admin[@]}" "$injector" grpc.health.v1.Health/Check)
expect '.status == "SERVING"'

step "Without a certificate one sees nothing"
if answer=$(grpcurl -cacert "$dev/pki/ca.pem" -connect-timeout 2 -max-time 5 "$vault" list 2>&1); then
  wrong "listed without a certificate" "$answer"
fi

# --- Workspaces --------------------------------------------------------------------------------------------------

step "A workspace holds secrets, and keeps them apart from those of others"
answer=$(vault WorkspaceService/CreateWorkspace <<<'{"workspace": {"name": "tutorial"}}')
expect '.workspace.name == "tutorial" and (.workspace.uid | length > 0)'
# The smallest plan, when none is given.
expect '.workspace.plan == "PLAN_FREE"'
# Fields that are zero are not printed.
expect '.workspace | has("secretCount") | not'

step "There is only one of each name"
refused AlreadyExists WORKSPACE_EXISTS vault WorkspaceService/CreateWorkspace <<<'{"workspace": {"name": "tutorial"}}'

step "A workspace's name is a DNS label, and is taken as it is or not at all"
for name in '' 'Tutorial' 'my_team' '-team' 'team-' 'team.a' '../etc' "$(printf 'a%.0s' {1..64})"; do
  refused InvalidArgument WORKSPACE_NAME_INVALID vault WorkspaceService/CreateWorkspace \
    < <(jq -n --arg name "$name" '{workspace: {name: $name}}')
done

step "Reading it back"
answer=$(vault WorkspaceService/GetWorkspace <<<'{"name": "tutorial"}')
expect '.workspace.name == "tutorial" and .workspace.plan == "PLAN_FREE"'
refused NotFound WORKSPACE_NOT_FOUND vault WorkspaceService/GetWorkspace <<<'{"name": "no-such"}'

step "Lists come in pages, in the order of names: the token of one page asks for the next"
vault WorkspaceService/CreateWorkspace <<<'{"workspace": {"name": "tutorial-2", "plan": "PLAN_STARTER"}}' >/dev/null
names=() token=''
while :; do
  answer=$(vault WorkspaceService/ListWorkspaces < <(jq -n --arg token "$token" '{page_size: 1, page_token: $token}'))
  expect '.workspaces | length == 1'
  names+=("$(jq -r '.workspaces[0].name' <<<"$answer")")
  token=$(jq -r '.nextPageToken // ""' <<<"$answer")
  [ -n "$token" ] || break
done
answer=$(printf '%s\n' "${names[@]}" | jq -Rn '[inputs]')
expect '. == unique and contains(["tutorial", "tutorial-2"])'
refused InvalidArgument PAGE_TOKEN_INVALID vault WorkspaceService/ListWorkspaces <<<'{"page_token": "made up"}'

step "An update names the fields that it changes. The revision is optional: with it, nobody's change is overwritten"
revision=$(vault WorkspaceService/GetWorkspace <<<'{"name": "tutorial"}' | jq -er .workspace.revision)
update=$(jq -n --arg revision "$revision" '{
  workspace: {name: "tutorial", plan: "PLAN_STARTER", revision: $revision},
  update_mask: {paths: ["plan"]}
}')
answer=$(vault WorkspaceService/UpdateWorkspace <<<"$update")
expect '.workspace.plan == "PLAN_STARTER"'
expect ".workspace.revision != \"$revision\""
# The same once more is based on a revision that is no longer current.
refused Aborted REVISION_MISMATCH vault WorkspaceService/UpdateWorkspace <<<"$update"
refused InvalidArgument FIELD_MASK_INVALID vault WorkspaceService/UpdateWorkspace \
  <<<'{"workspace": {"name": "tutorial", "plan": "PLAN_PRO"}}'
refused InvalidArgument FIELD_MASK_INVALID vault WorkspaceService/UpdateWorkspace \
  <<<'{"workspace": {"name": "tutorial"}, "update_mask": {"paths": ["uid"]}}'

# --- Secrets -----------------------------------------------------------------------------------------------------

step "A secret goes in. Its name is normalized: github-token is GITHUB_TOKEN"
value=$(head -c 24 /dev/urandom | base64)
put() {
  jq -n --arg name "$1" --arg value "$2" '{workspace: "tutorial", name: $name, text: $value}' |
    vault SecretService/PutSecret
}
answer=$(put github-token "$value")
expect '.created and .secret.name == "GITHUB_TOKEN" and .secret.version == "1"'

step "Other spellings of other names"
answer=$(put my.api.key "$value")
expect '.secret.name == "MY_API_KEY"'
answer=$(put SlackWebhook "$value")
expect '.secret.name == "SLACKWEBHOOK"'
for name in '' '---' "$(printf 'a%.0s' {1..129})"; do
  refused InvalidArgument SECRET_NAME_INVALID put "$name" "$value"
done

step "A value need not be text: data is any bytes, in base64 here as always in JSON"
answer=$(vault SecretService/PutSecret <<<'{"workspace": "tutorial", "name": "signing-key", "data": "AAH/gA=="}')
expect '.created and .secret.name == "SIGNING_KEY"'

step "1 byte to 64 KiB"
refused InvalidArgument SECRET_VALUE_SIZE put empty ''
refused InvalidArgument SECRET_VALUE_SIZE vault SecretService/PutSecret <<<'{"workspace": "tutorial", "name": "none"}'
largest=$(mktemp)
jq -n '{workspace: "tutorial", name: "largest", text: ("x" * 65536)}' >"$largest"
answer=$(vault SecretService/PutSecret <"$largest")
expect '.created'
jq -n '{workspace: "tutorial", name: "larger", text: ("x" * 65537)}' >"$largest"
refused InvalidArgument SECRET_VALUE_SIZE vault SecretService/PutSecret <"$largest"
rm "$largest"

step "Putting it again replaces the value: version 2"
replaced=$(head -c 24 /dev/urandom | base64)
answer=$(put GITHUB_TOKEN "$replaced")
expect '(.created | not) and .secret.name == "GITHUB_TOKEN" and .secret.version == "2"'

step "A put may say which version it replaces: with 0, none. So nobody's change is overwritten"
expecting() {
  jq -n --arg version "$1" --arg value "$replaced" \
    '{workspace: "tutorial", name: "github-token", text: $value, expected_version: $version}' |
    vault SecretService/PutSecret
}
refused Aborted VERSION_MISMATCH expecting 0
refused Aborted VERSION_MISMATCH expecting 1
answer=$(expecting 2)
expect '.secret.version == "3"'

step "With an id of its own a put can be tried again, when its answer was lost: it makes one version"
again=$(jq -n --arg value "$replaced" \
  '{workspace: "tutorial", name: "github-token", text: $value, request_id: "tutorial-1"}')
first=$(vault SecretService/PutSecret <<<"$again")
answer=$(vault SecretService/PutSecret <<<"$again")
[ "$answer" = "$first" ] || wrong "the same answer" "$first" "$answer"
expect '.secret.version == "4"'
refused AlreadyExists REQUEST_ID_REUSED vault SecretService/PutSecret \
  <<<'{"workspace": "tutorial", "name": "github-token", "text": "another", "request_id": "tutorial-1"}'

step "The newest three versions are kept. More are, when the workspace says so"
answer=$(vault SecretService/ListSecretVersions <<<'{"workspace": "tutorial", "name": "github-token"}')
expect '[.versions[].version] == ["4", "3", "2"] and (has("nextPageToken") | not)'
answer=$(vault WorkspaceService/UpdateWorkspace \
  <<<'{"workspace": {"name": "tutorial", "kept_versions": 5}, "update_mask": {"paths": ["kept_versions"]}}')
expect '.workspace.keptVersions == 5'

step "An older one comes back as a new version, without anyone seeing it"
answer=$(vault SecretService/RestoreSecretVersion \
  <<<'{"workspace": "tutorial", "name": "github-token", "version": "2", "expected_version": "4"}')
expect '.secret.version == "5"'
# The first was dropped by the put of the fourth.
refused NotFound VERSION_NOT_FOUND vault SecretService/RestoreSecretVersion \
  <<<'{"workspace": "tutorial", "name": "github-token", "version": "1"}'

step "A value can have an end, and labels"
in_an_hour=$(date -u -d '+1 hour' +%FT%TZ)
answer=$(vault SecretService/PutSecret < <(jq -n --arg value "$value" --arg at "$in_an_hour" \
  '{workspace: "tutorial", name: "my-api-key", text: $value, expires_at: $at, labels: {"example.com/team": "a"}}'))
expect ".secret.expiresAt == \"$in_an_hour\" and .secret.labels == {\"example.com/team\": \"a\"}"
refused InvalidArgument REQUEST_MALFORMED vault SecretService/PutSecret \
  <<<'{"workspace": "tutorial", "name": "my-api-key", "text": "x", "expires_at": "2020-01-01T00:00:00Z"}'
refused InvalidArgument REQUEST_MALFORMED vault SecretService/PutSecret \
  <<<'{"workspace": "tutorial", "name": "my-api-key", "text": "x", "labels": {"no key": "x"}}'

step "A value can be bound to where it may be sent"
answer=$(vault SecretService/PutSecret < <(jq -n --arg value "$replaced" \
  '{workspace: "tutorial", name: "bound", text: $value, upstream_origins: ["https://api.github.com"]}'))
expect '.secret.upstreamOrigins == ["https://api.github.com"]'
refused InvalidArgument ORIGIN_INVALID vault SecretService/PutSecret \
  <<<'{"workspace": "tutorial", "name": "bound", "text": "x", "upstream_origins": ["github.com"]}'

step "What there is of a secret to see: never its value"
answer=$(vault SecretService/GetSecretMetadata <<<'{"workspace": "tutorial", "name": "github-token"}')
expect '.secret.name == "GITHUB_TOKEN" and .secret.version == "5"'
expect '.secret | has("createTime") and has("updateTime")'
# When and for which server it was last decrypted is shown too, once it was.
expect '.secret | has("lastDecryptTime") or has("decryptCount") | not'
expect '.secret | has("text") or has("data") or has("value") | not'
answer=$(vault SecretService/ListSecrets <<<'{"workspace": "tutorial"}')
expect '[.secrets[].name] == ["BOUND", "GITHUB_TOKEN", "LARGEST", "MY_API_KEY", "SIGNING_KEY", "SLACKWEBHOOK"]'
for each in "$value" "$replaced" "$(base64 <<<"$replaced")"; do
  [[ $answer != *"$each"* ]] || wrong "the list holds a value"
done

step "Secrets are listed in pages too. A token belongs to its request: not to another workspace's list"
answer=$(vault SecretService/ListSecrets <<<'{"workspace": "tutorial", "page_size": 4}')
expect '[.secrets[].name] == ["BOUND", "GITHUB_TOKEN", "LARGEST", "MY_API_KEY"]'
token=$(jq -er .nextPageToken <<<"$answer")
answer=$(vault SecretService/ListSecrets < <(jq -n --arg token "$token" '{workspace: "tutorial", page_token: $token}'))
expect '[.secrets[].name] == ["SIGNING_KEY", "SLACKWEBHOOK"] and (has("nextPageToken") | not)'
refused InvalidArgument PAGE_TOKEN_INVALID vault SecretService/ListSecrets \
  < <(jq -n --arg token "$token" '{workspace: "tutorial-2", page_token: $token}')

step "Not even an admin can have a value decrypted, and cannot find out by trying what exists"
for workspace in tutorial no-such; do
  refused PermissionDenied PERMISSION_DENIED vault DecryptService/Decrypt \
    < <(jq -n --arg workspace "$workspace" '{workspace: $workspace, names: ["GITHUB_TOKEN"]}')
done

step "A deleted secret is gone, with all its versions; their numbers are not used again"
key='{"workspace": "tutorial", "name": "my-api-key"}'
vault SecretService/DeleteSecret <<<"$key" >/dev/null
refused NotFound SECRET_NOT_FOUND vault SecretService/GetSecretMetadata <<<"$key"
refused NotFound SECRET_NOT_FOUND vault SecretService/DeleteSecret <<<"$key"
refused NotFound WORKSPACE_NOT_FOUND vault SecretService/DeleteSecret <<<'{"workspace": "no-such", "name": "any"}'
# Every version went with it.
refused NotFound SECRET_NOT_FOUND vault SecretService/ListSecretVersions <<<"$key"
answer=$(put my-api-key "$value")
expect '.created and .secret.version == "3"'

step "A plan limits how many secrets there may be: 10 when it is free. Replacing one always works"
plan() {
  jq -n --arg plan "$1" '{workspace: {name: "tutorial", plan: $plan}, update_mask: {paths: ["plan"]}}' |
    vault WorkspaceService/UpdateWorkspace
}
plan PLAN_FREE >/dev/null
answer=$(vault WorkspaceService/GetWorkspace <<<'{"name": "tutorial"}')
expect '.workspace.secretCount == "6"'
for number in {7..10}; do put "filler-$number" "$value" >/dev/null; done
refused ResourceExhausted PLAN_LIMIT_REACHED put one-too-many "$value"
answer=$(put filler-10 "$replaced")
expect '(.created | not) and .secret.version == "2"'
plan PLAN_STARTER >/dev/null
answer=$(put one-too-many "$value")
expect '.created'
# A lower plan takes nothing away. It only stops new names.
plan PLAN_FREE >/dev/null
answer=$(put one-too-many "$replaced")
expect '.secret.version == "2"'
refused ResourceExhausted PLAN_LIMIT_REACHED put yet-another "$value"

# --- Servers -----------------------------------------------------------------------------------------------------

step "A server is an upstream, and which secrets it gets"
answer=$(injector ServerService/AddServer <<<'{"server": {
  "workspace": "tutorial",
  "name": "github",
  "url": "https://api.github.com",
  "inject_secrets": ["github-token", "not-there-yet"],
  "description": "GitHub"
}}')
expect '.server.injectSecrets == ["GITHUB_TOKEN", "NOT_THERE_YET"]'
expect '.server.authType == "AUTH_TYPE_SECRET_HEADERS" and (.server.workspaceUid | length > 0)'
refused AlreadyExists SERVER_EXISTS injector ServerService/AddServer \
  <<<'{"server": {"workspace": "tutorial", "name": "github", "url": "https://api.github.com"}}'

step "What a call to it would carry now: names and versions"
answer=$(injector ServerService/ExplainInjection <<<'{"workspace": "tutorial", "name": "github"}')
expect '.wouldForward'
expect '.secrets[0] | .name == "GITHUB_TOKEN" and .state == "STATE_INJECTED" and .version == "5"'
expect '.secrets[0].placement == "header x-mcp-secret-github-token"'
expect '.secrets[1] | .name == "NOT_THERE_YET" and .state == "STATE_MISSING" and (has("version") | not)'

step "Mistakes are refused when a server is stored, not when it is called"
add() {
  local other='{"workspace": "tutorial", "name": "other", "url": "https://api.github.com"}'
  jq -n --argjson other "$other" --argjson with "$1" '{server: ($other + $with)}' |
    injector ServerService/AddServer
}
# A bearer token is exactly one secret.
refused InvalidArgument SERVER_INVALID add '{"auth_type": "AUTH_TYPE_BEARER", "inject_secrets": ["A", "B"]}'
refused InvalidArgument SERVER_INVALID add '{"auth_type": "AUTH_TYPE_BEARER"}'
refused InvalidArgument SECRET_NAME_DUPLICATE add '{"inject_secrets": ["github-token", "GITHUB_TOKEN"]}'
refused InvalidArgument SERVER_NAME_INVALID add '{"name": "Git_Hub"}'
# Secrets do not leave the machine in cleartext, nor go to a cloud's metadata service.
refused InvalidArgument SERVER_INVALID add '{"url": "http://api.github.com"}'
refused FailedPrecondition UPSTREAM_ADDRESS_REFUSED add '{"url": "http://169.254.169.254/", "allow_plaintext": true}'
refused NotFound WORKSPACE_NOT_FOUND add '{"workspace": "no-such"}'

step "Reading it back, and listing"
answer=$(injector ServerService/GetServer <<<'{"workspace": "tutorial", "name": "github"}')
expect '.server.description == "GitHub" and .server.url == "https://api.github.com"'
refused NotFound SERVER_NOT_FOUND injector ServerService/GetServer <<<'{"workspace": "tutorial", "name": "other"}'
answer=$(injector ServerService/ListServers <<<'{"workspace": "tutorial"}')
expect '[.servers[].name] == ["github"]'

step "Changing it: only the fields of the mask"
revision=$(jq -er '.servers[0].revision' <<<"$answer")
update=$(jq -n --arg revision "$revision" '{
  server: {
    workspace: "tutorial", name: "github", revision: $revision,
    auth_type: "AUTH_TYPE_BEARER", inject_secrets: ["bound"]
  },
  update_mask: {paths: ["auth_type", "inject_secrets"]}
}')
answer=$(injector ServerService/UpdateServer <<<"$update")
expect '.server | .authType == "AUTH_TYPE_BEARER" and .injectSecrets == ["BOUND"] and .description == "GitHub"'
refused Aborted REVISION_MISMATCH injector ServerService/UpdateServer <<<"$update"
answer=$(injector ServerService/ExplainInjection <<<'{"workspace": "tutorial", "name": "github"}')
expect '.wouldForward and .secrets[0].placement == "header authorization: Bearer"'

step "A secret that was bound to another place meanwhile stops the call"
vault SecretService/PutSecret >/dev/null < <(jq -n --arg value "$replaced" \
  '{workspace: "tutorial", name: "bound", text: $value, upstream_origins: ["https://elsewhere.example"]}')
answer=$(injector ServerService/ExplainInjection <<<'{"workspace": "tutorial", "name": "github"}')
expect '(.wouldForward | not) and .secrets[0].state == "STATE_ORIGIN_REFUSED"'

step "So does a required secret that is missing"
injector ServerService/UpdateServer >/dev/null <<<'{
  "server": {
    "workspace": "tutorial", "name": "github",
    "inject_secrets": ["not-there-yet"], "required_secrets": ["not-there-yet"]
  },
  "update_mask": {"paths": ["inject_secrets", "required_secrets"]}
}'
answer=$(injector ServerService/ExplainInjection <<<'{"workspace": "tutorial", "name": "github"}')
expect '(.wouldForward | not) and .secrets[0].required and .secrets[0].state == "STATE_MISSING"'

step "Removing it"
injector ServerService/RemoveServer <<<'{"workspace": "tutorial", "name": "github"}' >/dev/null
refused NotFound SERVER_NOT_FOUND injector ServerService/RemoveServer <<<'{"workspace": "tutorial", "name": "github"}'

# --- Backups -----------------------------------------------------------------------------------------------------

step "A backup of the whole vault, while it serves: its bytes come in chunks, here in base64"
answer=$(vault BackupService/ExportBackup <<<'{}' | jq -s .)
expect '.[0].chunk | startswith("YWVyb3N0YWNrIGJhY2t1c")'

step "It is restored into a vault without workspaces, with the same root key, and nowhere else"
refused FailedPrecondition VAULT_NOT_EMPTY vault BackupService/RestoreBackup <<<"$(jq -c '.[]' <<<"$answer")"

# --- The end -----------------------------------------------------------------------------------------------------

step "A workspace that holds secrets is deleted only by force; then its keys are gone too"
refused FailedPrecondition WORKSPACE_NOT_EMPTY vault WorkspaceService/DeleteWorkspace <<<'{"name": "tutorial"}'
vault WorkspaceService/DeleteWorkspace <<<'{"name": "tutorial", "force": true}' >/dev/null
refused NotFound WORKSPACE_NOT_FOUND vault WorkspaceService/GetWorkspace <<<'{"name": "tutorial"}'
refused NotFound WORKSPACE_NOT_FOUND vault SecretService/ListSecrets <<<'{"workspace": "tutorial"}'
# An empty one needs none.
vault WorkspaceService/DeleteWorkspace <<<'{"name": "tutorial-2"}' >/dev/null

echo
echo "All is as it says."
