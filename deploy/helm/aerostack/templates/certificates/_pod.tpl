{{- /* The pod that makes or renews the certificate of the vault: (list $ "SERVICE ACCOUNT") */ -}}
{{- define "aerostack.certificatesPod" -}}
{{- $root := index . 0 -}}
{{- include "aerostack.checkResources" (list "certificates.job.resources" $root.Values.certificates.job.resources) -}}
metadata:
  labels:
    {{- include "aerostack.labels" (list $root "certificates") | nindent 4 }}
spec:
  serviceAccountName: {{ index . 1 }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  # Kubernetes keeps the failed pods of a Job, and with them their logs. It deletes the pod that `OnFailure` restarts.
  restartPolicy: Never
  {{- with include "aerostack.pullSecrets" $root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  securityContext:
    {{- include "aerostack.podSecurityContext" $root | nindent 4 }}
  {{- with include "aerostack.scheduling" (list $root $root.Values.webhook) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: certificates
      image: {{ include "aerostack.image" (list $root $root.Values.cli.image) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        - kubernetes
        - certificates
        - --namespace={{ $root.Release.Namespace }}
        - --secret={{ include "aerostack.vaultTls" $root }}
        - --uri={{ include "aerostack.vaultId" $root }}
        {{- range splitList "\n" (include "aerostack.vaultNames" $root) }}
        - --dns={{ . }}
        {{- end }}
      resources:
        {{- toYaml $root.Values.certificates.job.resources | nindent 8 }}
      securityContext:
        {{- include "aerostack.containerSecurityContext" $root | nindent 8 }}
{{- end }}
