{{- define "aerostack.name" -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "aerostack.vault" -}}
{{ include "aerostack.name" . }}-vault
{{- end }}

{{- define "aerostack.webhook" -}}
{{ include "aerostack.name" . }}-webhook
{{- end }}

{{- define "aerostack.admin" -}}
{{ include "aerostack.name" . }}-admin
{{- end }}

{{- define "aerostack.certificates" -}}
{{ include "aerostack.name" . }}-certificates
{{- end }}

{{- /* Labels that select the pods of a component: (list $ "vault") */ -}}
{{- define "aerostack.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: aerostack
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* Labels of an object of a component: (list $ "vault") */ -}}
{{- define "aerostack.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{ include "aerostack.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: aerostack
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* An image, by digest if there is one: (list $ .Values.vault.image) */ -}}
{{- define "aerostack.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "aerostack.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The vault is one pod and refuses to start with these roles, so that the upgrade would end every injected call. */ -}}
{{- define "aerostack.checkRoles" -}}
{{- $injectors := list -}}
{{- range .roles.injectors }}{{ $injectors = append $injectors (regexReplaceAll "=[^=]*$" . "") }}{{ end -}}
{{- range concat .admins .roles.editors -}}
{{- $principal := regexReplaceAll "=[^=]*$" . "" -}}
{{- if has $principal $injectors -}}
{{- fail (printf "roles: %s is in roles.injectors and also an admin or editor: no principal may both administer and decrypt" $principal) -}}
{{- end -}}
{{- end -}}
{{- range concat .admins .roles.editors .roles.viewers .roles.injectors -}}
{{- if and (regexMatch "^(spiffe://|dns:)" .) (not $.clientCa) -}}
{{- fail (printf "roles: %s is a principal of a client certificate, so certificates.clientCaSecret is required" .) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The security contexts pass the standard "restricted" of Pod Security. */ -}}
{{- define "aerostack.podSecurityContext" -}}
{{- if and .Values.podSecurity.runAsUser (not .Values.podSecurity.fsGroup) }}
{{- fail "podSecurity.fsGroup is required with podSecurity.runAsUser: without it the user cannot read its keys" }}
{{- end -}}
runAsNonRoot: true
{{- with .Values.podSecurity.runAsUser }}
runAsUser: {{ . | int64 }}
{{- end }}
{{- with .Values.podSecurity.runAsGroup }}
runAsGroup: {{ . | int64 }}
{{- end }}
{{- with .Values.podSecurity.fsGroup }}
fsGroup: {{ . | int64 }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "aerostack.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Where pods of a component run: (list $ .Values.vault) */ -}}
{{- define "aerostack.scheduling" -}}
{{- $component := index . 1 -}}
{{- with $component.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- /* The principal that the certificate of the vault names. */ -}}
{{- define "aerostack.vaultId" -}}
spiffe://{{ .Values.trustDomain | default .Values.clusterDomain }}/ns/{{ .Release.Namespace }}/sa/{{ include "aerostack.vault" . }}
{{- end }}

{{- define "aerostack.vaultAddress" -}}
{{ include "aerostack.vault" . }}.{{ .Release.Namespace }}.svc:7150
{{- end }}

{{- /* The DNS names in the certificate of the vault, one a line. `localhost` is for `kubectl port-forward`. */ -}}
{{- define "aerostack.vaultNames" -}}
{{- $name := include "aerostack.vault" . -}}
{{ $name }}
{{ $name }}.{{ .Release.Namespace }}
{{ $name }}.{{ .Release.Namespace }}.svc
{{ $name }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
localhost
{{- end }}

{{- /* The Secret with the certificate of the vault. */ -}}
{{- define "aerostack.vaultTls" -}}
{{- if eq .Values.certificates.mode "existing" -}}
{{ required "certificates.existing.vaultSecret is required with certificates.mode=existing" .Values.certificates.existing.vaultSecret }}
{{- else -}}
{{ include "aerostack.vault" . }}-tls
{{- end }}
{{- end }}

{{- /* The Secret with the certificate of the webhook. */ -}}
{{- define "aerostack.webhookTls" -}}
{{- if eq .Values.certificates.mode "existing" -}}
{{ required "certificates.existing.webhookSecret is required with certificates.mode=existing" .Values.certificates.existing.webhookSecret }}
{{- else -}}
{{ include "aerostack.webhook" . }}-tls
{{- end }}
{{- end }}

{{- /* The value of --jwt-issuer for the service accounts of the cluster. */ -}}
{{- define "aerostack.kubernetesIssuer" -}}
{{- $account := "/var/run/secrets/kubernetes.io/serviceaccount" -}}
{{ .Values.tokens.issuer }}={{ .Values.tokens.audience }},name=kubernetes
{{- with .Values.tokens.keys }},jwks={{ . }}{{ end }}
{{- /* An issuer outside of the cluster has another CA, and gets no token of the cluster. */ -}}
{{- if or .Values.tokens.keys (hasPrefix "https://kubernetes.default.svc" .Values.tokens.issuer) -}}
,ca={{ $account }}/ca.crt,token={{ $account }}/token
{{- end }}
{{- end }}
