{{- define "millhand.name" -}}
{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "millhand.selector" -}}
app.kubernetes.io/name: millhand
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "millhand.labels" -}}
{{ include "millhand.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Values.image.tag | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Labels of the pods of the migration. No selector matches them: a Job would keep the budget from allowing any eviction. */}}
{{- define "millhand.migrateLabels" -}}
app.kubernetes.io/name: millhand-migrate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "millhand.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}

{{- define "millhand.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "millhand.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end }}

{{- /* The environment of a container: the URL in a secret, and what the values add. Takes the values and the secret. */}}
{{- define "millhand.env" -}}
- name: DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: DATABASE_URL}}
{{- with .values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
