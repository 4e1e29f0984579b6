{{- define "aerostack.name" -}}
{{ .Values.fullnameOverride }}
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
{{- $lists := dict "admins" .admins "editors" .roles.editors "viewers" .roles.viewers "injectors" .roles.injectors -}}
{{- $injectors := list -}}
{{- range .roles.injectors }}{{ $injectors = append $injectors (include "aerostack.principal" (list $.issuer .)) }}{{ end -}}
{{- range concat .admins .roles.editors .roles.viewers -}}
{{- $principal := include "aerostack.principal" (list $.issuer .) -}}
{{- if has $principal $injectors -}}
{{- fail (printf "roles: %s is in roles.injectors and also an admin, editor or viewer: no principal may both administer and decrypt" $principal) -}}
{{- end -}}
{{- end -}}
{{- range $name, $roles := $lists -}}
{{- /* Linux limits one variable of the environment to 128 KiB. */ -}}
{{- $size := len (join ";" $roles) -}}
{{- if gt $size 120000 -}}
{{- fail (printf "roles.%s has %d bytes, and the variable of the vault that holds it has 120000 at most" $name $size) -}}
{{- end -}}
{{- range $roles -}}
{{- if and (regexMatch "^(spiffe://|dns:)" .) (not $.clientCa) -}}
{{- fail (printf "roles: %s is a principal of a client certificate, so certificates.clientCaSecret is required" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The principal of a role, and of a service account the short form: (list .Values.tokens.issuer "PRINCIPAL=WORKSPACE") */ -}}
{{- define "aerostack.principal" -}}
{{- $principal := regexReplaceAll "=[^=]*$" (index . 1) "" -}}
{{- $prefix := printf "jwt:%s#" (index . 0) -}}
{{- if hasPrefix (printf "%ssystem:serviceaccount:" $prefix) $principal -}}
{{- $principal = trimPrefix $prefix $principal -}}
{{- end -}}
{{- $principal -}}
{{- end }}

{{- /* The vault refuses to start with these issuers, or would accept tokens for others. */ -}}
{{- define "aerostack.checkIssuers" -}}
{{- if eq .audience .issuer -}}
{{- fail "tokens.audience is tokens.issuer, which is the audience of the API server: the vault would accept tokens for the API server" -}}
{{- end -}}
{{- $taken := list .issuer "name=kubernetes" -}}
{{- range $issuer := .issuers -}}
{{- $keys := list -}}
{{- range rest (splitList "," $issuer) }}{{ $keys = append $keys (first (splitList "=" .)) }}{{ end -}}
{{- if ne (len $keys) (len (uniq $keys)) -}}
{{- fail (printf "tokens.issuers: a part occurs twice in %s" $issuer) -}}
{{- end -}}
{{- if and (regexMatch ",jwks=/" $issuer) (or (has "ca" $keys) (has "token" $keys)) -}}
{{- fail (printf "tokens.issuers: ca= and token= are for a jwks= with a URL, and that of %s is a file" $issuer) -}}
{{- end -}}
{{- $url := first (splitList "=" $issuer) -}}
{{- $name := trimPrefix "," (regexFind ",name=[^,]+" $issuer) -}}
{{- if has $url $taken -}}
{{- fail (printf "tokens.issuers: %s is the issuer of another entry or of tokens.issuer" $url) -}}
{{- else if has $name $taken -}}
{{- fail (printf "tokens.issuers: %s is the name of another entry or of tokens.issuer" $name) -}}
{{- end -}}
{{- $taken = concat $taken (compact (list $url $name)) -}}
{{- end -}}
{{- end }}

{{- /* A quantity of Kubernetes as a number: `64Mi` is 67108864. */ -}}
{{- define "aerostack.quantity" -}}
{{- $unit := regexFind "[a-zA-Z]*$" (toString .) -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- printf "%f" (mulf (trimSuffix $unit (toString .) | float64) (get $units $unit | default 1)) -}}
{{- end }}

{{- /* Kubernetes refuses a limit that is less than its request: (list "vault.resources" .Values.vault.resources) */ -}}
{{- define "aerostack.checkResources" -}}
{{- $name := index . 0 -}}
{{- $limits := (index . 1).limits | default dict -}}
{{- range $resource, $request := (index . 1).requests | default dict -}}
{{- $limit := get $limits $resource -}}
{{- if and $limit (lt (include "aerostack.quantity" $limit | float64) (include "aerostack.quantity" $request | float64)) -}}
{{- fail (printf "%s: the limit of %s (%v) is less than the request (%v)" $name $resource $limit $request) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The webhook refuses to start with these settings of the sidecars. */ -}}
{{- define "aerostack.checkInjector" -}}
{{- if hasSuffix ":7100" .metricsListen -}}
{{- fail "injector.metricsListen: 7100 is the port of the data plane" -}}
{{- end -}}
{{- range $name, $amount := pick . "cpu" "memory" -}}
{{- $both := splitList "," $amount -}}
{{- $request := first $both | trim -}}
{{- $limit := last $both | trim -}}
{{- $least := include "aerostack.quantity" $request | float64 -}}
{{- $most := include "aerostack.quantity" $limit | float64 -}}
{{- if not $amount -}}
{{- else if lt $most $least -}}
{{- fail (printf "injector.%s: the limit %s is less than the request %s" $name $limit $request) -}}
{{- else if and (eq $name "memory") (lt $least 16777216.0) -}}
{{- fail "injector.memory is less than 16Mi, which the sidecar needs" -}}
{{- else if and (eq $name "cpu") (le $least 0.0) -}}
{{- fail "injector.cpu is not more than 0" -}}
{{- else if and (eq $name "cpu") (gt $most 16.0) -}}
{{- fail "injector.cpu is more than 16, the processors that the sidecar can use" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The seconds of a duration such as `720h` or `1h30m`. */ -}}
{{- define "aerostack.seconds" -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+[hms]" . -1 -}}
{{- $unit := regexFind "[hms]" . -}}
{{- $seconds = add $seconds (mul (trimSuffix $unit . | int64) (get (dict "h" 3600 "m" 60 "s" 1) $unit)) -}}
{{- end -}}
{{- $seconds -}}
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
{{- /* Keys outside of the cluster have another CA, and get no token of the cluster. */ -}}
{{- $inside := printf "^https://kubernetes\\.default(\\.svc(\\.(cluster\\.local|%s))?)?(:[0-9]+)?(/|$)" (regexQuoteMeta .Values.clusterDomain) -}}
{{- if regexMatch $inside (.Values.tokens.keys | default .Values.tokens.issuer) -}}
,ca={{ $account }}/ca.crt,token={{ $account }}/token
{{- end }}
{{- end }}
