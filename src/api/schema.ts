// Written by `python -m mlbench.entrypoints.labserver.typescript` from mlbench/entrypoints/labserver/schema.py.

import type { PartialJSONObject, PartialJSONValue } from '@lumino/coreutils';

export interface IArtifact {
  readonly digest: string;
  readonly size: number;
  readonly type: string;
  readonly codec: string;
  readonly preview: PartialJSONObject;
  readonly signature: string | null;
}

export interface IArtifactChange {
  readonly name: string;
  readonly change: 'added' | 'changed' | 'moved' | 'removed';
  readonly step: string | null;
  readonly before: string | null;
  readonly after: string | null;
  readonly before_size: number | null;
  readonly after_size: number | null;
  readonly before_execution: string | null;
  readonly after_execution: string | null;
  readonly details: ReadonlyArray<string>;
}

export interface IAttempt {
  readonly number: number;
  readonly state: 'cancelled' | 'failed' | 'queued' | 'reused' | 'running' | 'skipped' | 'succeeded';
  readonly reason: 'error' | 'kernel-lost' | 'memory' | 'service-lost' | 'superseded' | 'timeout' | 'user' | 'worker-lost' | null;
  readonly started: number | null;
  readonly ended: number | null;
  readonly worker: string | null;
  readonly failure: IFailure | null;
}

export interface IBinding {
  readonly name: string;
  readonly artifact: IArtifact | null;
  readonly member: string | null;
  readonly module: string | null;
  readonly submodules: ReadonlyArray<string>;
  readonly problem: string | null;
}

export interface ICancelled {
  readonly steps: ReadonlyArray<string>;
}

export interface ICellText {
  readonly id: string;
  readonly source: string;
  readonly tags?: ReadonlyArray<string>;
  readonly ran?: string | null;
}

export interface ICheckLine {
  readonly level: 'error' | 'ok' | 'warning';
  readonly text: string;
  readonly cell: string | null;
  readonly parameter: string | null;
}

export interface ICodeChange {
  readonly what: 'cell' | 'module';
  readonly change: 'added' | 'changed' | 'moved' | 'removed';
  readonly name: string;
  readonly cell: string | null;
  readonly type: string;
  readonly diff: ReadonlyArray<string>;
}

export interface ICompletions {
  readonly names: ReadonlyArray<string>;
}

export interface IDashboard {
  readonly name: string;
  readonly url: string;
}

export interface IDashboards {
  readonly dashboards: ReadonlyArray<IDashboard>;
}

export interface IDataChange {
  readonly step: string;
  readonly name: string;
  readonly change: 'added' | 'changed' | 'moved' | 'removed';
  readonly before: string | null;
  readonly after: string | null;
  readonly before_execution: string | null;
  readonly after_execution: string | null;
  readonly details: ReadonlyArray<string>;
}

export interface IDifference {
  readonly before: string;
  readonly after: string;
  readonly code: ReadonlyArray<ICodeChange>;
  readonly parameters: ReadonlyArray<IParameterChange>;
  readonly data: ReadonlyArray<IDataChange>;
  readonly artifacts: ReadonlyArray<IArtifactChange>;
  readonly environment: ReadonlyArray<IEnvironmentChange>;
  readonly metrics: ReadonlyArray<IMetricChange>;
  readonly outcome: ReadonlyArray<IOutcomeChange>;
  readonly items: ReadonlyArray<IFanOutChange>;
}

export interface IDocument {
  readonly kernel: string;
  readonly notebook: PartialJSONObject;
}

export interface IEnvironmentChange {
  readonly part: string;
  readonly change: 'added' | 'changed' | 'moved' | 'removed';
  readonly before: string | null;
  readonly after: string | null;
}

export interface IExecution {
  readonly id: string;
  readonly run: string;
  readonly step: string;
  readonly state: 'cancelled' | 'failed' | 'queued' | 'reused' | 'running' | 'skipped' | 'succeeded';
  readonly cell: string | null;
  readonly position: number | null;
  readonly part_of: string | null;
  readonly item: number | null;
  readonly label: { readonly [name: string]: string };
  readonly fanout: IFanOut | null;
  readonly attempt: number;
  readonly attempts: ReadonlyArray<IAttempt>;
  readonly reason: 'error' | 'kernel-lost' | 'memory' | 'service-lost' | 'superseded' | 'timeout' | 'user' | 'worker-lost' | null;
  readonly queued: number | null;
  readonly started: number | null;
  readonly ended: number | null;
  readonly worker: string | null;
  readonly key: string | null;
  readonly key_parts: { readonly [name: string]: string };
  readonly source: string | null;
  readonly parents: ReadonlyArray<string>;
  readonly reads: ReadonlyArray<IRead>;
  readonly binds: ReadonlyArray<IBinding>;
  readonly artifacts: ReadonlyArray<IBinding>;
  readonly metrics: ReadonlyArray<IMetric>;
  readonly messages: ReadonlyArray<PartialJSONObject>;
  readonly log: string | null;
  readonly failure: IFailure | null;
  readonly files: ReadonlyArray<IFileUse>;
  readonly network: boolean;
  readonly draws: ReadonlyArray<string>;
  readonly random: string | null;
  readonly random_start: string | null;
  readonly cpu: number | null;
  readonly peak_memory: number | null;
  readonly reused_from: string | null;
  readonly replaces: string | null;
  readonly unseen: boolean;
  readonly note: string | null;
  readonly env: string | null;
  readonly requirements: ReadonlyArray<string>;
  readonly tags: { readonly [name: string]: string };
}

export interface IExecutionDetail {
  readonly execution: IExecution;
}

export interface IFailure {
  readonly ename: string;
  readonly evalue: string;
  readonly traceback: ReadonlyArray<string>;
  readonly line: number | null;
  readonly remedy: string | null;
  readonly cell: string | null;
}

export interface IFanOut {
  readonly names: ReadonlyArray<string>;
  readonly shape: ReadonlyArray<number>;
  readonly total: number | null;
  readonly running: number;
  readonly succeeded: number;
  readonly reused: number;
  readonly failed: number;
  readonly cancelled: number;
  readonly skipped: number;
  readonly seconds: number;
  readonly slowest: number | null;
  readonly slowest_seconds: number | null;
  readonly metric: string | null;
}

export interface IFanOutChange {
  readonly step: string;
  readonly differing: number;
  readonly added: number;
  readonly removed: number;
  readonly items: ReadonlyArray<IItemChange>;
  readonly cut: boolean;
}

export interface IFileEntry {
  readonly path: string;
  readonly digest: string;
  readonly size: number;
}

export interface IFileList {
  readonly files: ReadonlyArray<IFileEntry>;
  readonly links: { readonly [name: string]: string };
}

export interface IFileUse {
  readonly path: string;
  readonly mode: string;
  readonly size: number | null;
  readonly modified: number | null;
}

export interface IFiring {
  readonly job: string;
  readonly due: number;
  readonly state: 'cancelled' | 'failed' | 'queued' | 'reused' | 'running' | 'skipped' | 'succeeded';
  readonly run: string | null;
  readonly reason: string | null;
  readonly token: number;
  readonly attempt: number;
  readonly owner: string | null;
  readonly skipped: number;
  readonly manual: boolean;
}

export interface IFiringDetail {
  readonly firing: IFiring;
}

export interface IFirings {
  readonly firings: ReadonlyArray<IFiring>;
}

export interface IFormField {
  readonly name: string;
  readonly type: string;
  readonly default: PartialJSONValue;
  readonly help: string | null;
  readonly required: boolean;
}

export interface IGitState {
  readonly commit: string;
  readonly branch: string | null;
  readonly difference: string | null;
}

export interface IGraph {
  readonly steps: ReadonlyArray<IGraphStep>;
  readonly problems: ReadonlyArray<string>;
  readonly edited: ReadonlyArray<string>;
}

export interface IGraphParent {
  readonly step: string;
  readonly why: string;
}

export interface IGraphQuestion {
  readonly cells: ReadonlyArray<ICellText>;
}

export interface IGraphStep {
  readonly name: string;
  readonly cell: string;
  readonly parents: ReadonlyArray<IGraphParent>;
  readonly problems: ReadonlyArray<string>;
  readonly cells: ReadonlyArray<string>;
}

export interface IIdentity {
  readonly own: boolean;
}

export interface IItemChange {
  readonly label: { readonly [name: string]: string };
  readonly before: string | null;
  readonly after: string | null;
  readonly data: ReadonlyArray<IDataChange>;
  readonly artifacts: ReadonlyArray<IArtifactChange>;
  readonly metrics: ReadonlyArray<IMetricChange>;
}

export interface IItemList {
  readonly items: ReadonlyArray<IExecution>;
  readonly counts: { readonly [name: string]: number };
  readonly logged: number | null;
  readonly next: number | null;
}

export interface IItemMetric {
  readonly names: ReadonlyArray<string>;
  readonly values: ReadonlyArray<number | null>;
  readonly name: string | null;
  readonly shape: ReadonlyArray<number>;
}

export interface IJob {
  readonly id: string;
  readonly name: string;
  readonly notebook: string;
  readonly version: IJobVersion;
  readonly notebook_id: string | null;
  readonly cron: string | null;
  readonly timezone: string | null;
  readonly paused: boolean;
  readonly problem: string | null;
  readonly next_due: number | null;
  readonly last_due: number | null;
  readonly host: string | null;
  readonly user: string | null;
  readonly created: number;
  readonly deleted: boolean;
}

export interface IJobChange {
  readonly paused: boolean;
}

export interface IJobCheck {
  readonly name: string;
  readonly version: number;
  readonly fields: ReadonlyArray<IFormField>;
  readonly checked: ReadonlyArray<ICheckLine>;
  readonly service: string;
}

export interface IJobList {
  readonly jobs: ReadonlyArray<IJobView>;
  readonly service: string;
}

export interface IJobQuestion {
  readonly path: string;
  readonly notebook: PartialJSONObject;
  readonly name?: string | null;
  readonly cron?: string | null;
  readonly timezone?: string | null;
  readonly parameters?: PartialJSONObject;
}

export interface IJobVersion {
  readonly number: number;
  readonly snapshot: string;
  readonly parameters: PartialJSONObject;
  readonly created: number;
  readonly user: string | null;
  readonly timeout: number | null;
  readonly retries: number;
  readonly missed: 'all' | 'latest' | 'skip';
  readonly overlap: 'allow' | 'queue' | 'skip';
  readonly on_lost: 'fail' | 'retry';
}

export interface IJobView {
  readonly job: IJob;
  readonly path: string | null;
  readonly short: string | null;
  readonly sentence: string | null;
  readonly last: IFiring | null;
  readonly error: string | null;
}

export interface ILineage {
  readonly values: ReadonlyArray<ILineageValue>;
  readonly executions: ReadonlyArray<ILineageExecution>;
  readonly above: ReadonlyArray<string>;
  readonly below: ReadonlyArray<string>;
  readonly cut: boolean;
}

export interface ILineageExecution {
  readonly id: string;
  readonly run: string;
  readonly step: string;
  readonly state: 'cancelled' | 'failed' | 'queued' | 'reused' | 'running' | 'skipped' | 'succeeded';
  readonly item: number | null;
  readonly label: { readonly [name: string]: string };
  readonly part_of: string | null;
  readonly fanout: IFanOut | null;
  readonly started: number | null;
  readonly ended: number | null;
  readonly code: string | null;
  readonly source: string | null;
  readonly path: string | null;
  readonly user: string | null;
  readonly snapshot: string | null;
  readonly notebook: string | null;
  readonly commit: string | null;
  readonly parameters: PartialJSONObject;
  readonly files: ReadonlyArray<IFileUse>;
  readonly reads: ReadonlyArray<ILineageValue>;
  readonly binds: ReadonlyArray<ILineageValue>;
  readonly reused_in: ReadonlyArray<string>;
}

export interface ILineageValue {
  readonly name: string;
  readonly digest: string | null;
  readonly execution: string | null;
  readonly type: string | null;
  readonly size: number | null;
  readonly text: string | null;
  readonly how: 'captured' | 'file' | 'item' | 'name';
}

export interface IMetric {
  readonly name: string;
  readonly value: number;
  readonly step: number | null;
  readonly time: number;
}

export interface IMetricChange {
  readonly name: string;
  readonly change: 'added' | 'changed' | 'moved' | 'removed';
  readonly step: string | null;
  readonly before: number | null;
  readonly after: number | null;
  readonly difference: number | null;
}

export interface INewJob {
  readonly name: string;
  readonly path: string;
  readonly notebook: PartialJSONObject;
  readonly cron?: string | null;
  readonly timezone?: string | null;
  readonly parameters?: PartialJSONObject;
}

export interface INews {
  readonly type: 'changed' | 'execution' | 'hello' | 'job' | 'messages' | 'reset' | 'run' | 'service';
  readonly seq: number | null;
  readonly life: string | null;
  readonly run: string | null;
  readonly kernel: string | null;
  readonly path: string | null;
  readonly body: PartialJSONObject;
}

export interface INotebookView {
  readonly notebook: PartialJSONObject;
  readonly executed: boolean;
  readonly has_executed: boolean;
}

export interface IOutcomeChange {
  readonly step: string | null;
  readonly before: string | null;
  readonly after: string | null;
}

export interface IOutputs {
  readonly outputs: { readonly [name: string]: IExecution };
  readonly copied: boolean;
  readonly notebook_id: string | null;
}

export interface IOutputsQuestion {
  readonly kernel: string;
  readonly cells: ReadonlyArray<string>;
  readonly path?: string | null;
  readonly messages?: boolean;
}

export interface IParameterChange {
  readonly name: string;
  readonly change: 'added' | 'changed' | 'moved' | 'removed';
  readonly before: PartialJSONValue;
  readonly after: PartialJSONValue;
}

export interface IProblem {
  readonly message: string;
  readonly remedy: string | null;
  readonly type: string;
  readonly place: number | null;
}

export interface IRead {
  readonly name: string;
  readonly digest: string | null;
  readonly type: string | null;
  readonly size: number | null;
  readonly execution: string | null;
  readonly step: string | null;
}

export interface IResumed {
  readonly run: string;
}

export interface IRun {
  readonly id: string;
  readonly kind: 'interactive' | 'job' | 'papermill';
  readonly state: 'cancelled' | 'failed' | 'queued' | 'reused' | 'running' | 'skipped' | 'succeeded';
  readonly name: string;
  readonly notebook: string | null;
  readonly notebook_id: string | null;
  readonly snapshot: string | null;
  readonly parameters: PartialJSONObject;
  readonly user: string | null;
  readonly host: string | null;
  readonly started: number;
  readonly ended: number | null;
  readonly reason: 'error' | 'kernel-lost' | 'memory' | 'service-lost' | 'superseded' | 'timeout' | 'user' | 'worker-lost' | null;
  readonly failure: IFailure | null;
  readonly failed_step: string | null;
  readonly output: string | null;
  readonly kernel: string | null;
  readonly job: string | null;
  readonly job_version: number | null;
  readonly due: number | null;
  readonly resumed_from: string | null;
  readonly artifacts: ReadonlyArray<IBinding>;
  readonly metrics: ReadonlyArray<IMetric>;
  readonly owner: string | null;
  readonly tags: { readonly [name: string]: string };
}

export interface IRunDetail {
  readonly run: IRun;
  readonly executions: ReadonlyArray<IExecution>;
  readonly edges: ReadonlyArray<IStepEdge>;
  readonly path: string | null;
  readonly snapshot: ISnapshot | null;
  readonly code: string | null;
  readonly job: string | null;
}

export interface IRunList {
  readonly runs: ReadonlyArray<IRunSummary>;
  readonly count: number;
  readonly next: string | null;
}

export interface IRunSummary {
  readonly run: IRun;
  readonly path: string | null;
  readonly steps_done: number;
  readonly steps_total: number;
  readonly metric: IMetric | null;
  readonly error: string | null;
  readonly job: string | null;
  readonly changed: ReadonlyArray<string>;
}

export interface ISchedulePreview {
  readonly cron: string;
  readonly sentence: string;
  readonly next: ReadonlyArray<string>;
}

export interface IScheduleQuestion {
  readonly cron: string;
  readonly timezone: string;
}

export interface ISnapshot {
  readonly notebook: string;
  readonly cells: ReadonlyArray<string>;
  readonly parameters: PartialJSONObject;
  readonly modules: { readonly [name: string]: string };
  readonly folder: string | null;
  readonly interpreter: string | null;
  readonly kernel_name: string | null;
  readonly python: string | null;
  readonly packages: { readonly [name: string]: string };
  readonly environment: ReadonlyArray<string>;
  readonly git: IGitState | null;
}

export interface IStatus {
  readonly version: string;
  readonly store: string;
  readonly store_source: string;
  readonly service: string;
  readonly service_runs: boolean;
  readonly install: string;
}

export interface IStepEdge {
  readonly parent: string;
  readonly child: string;
}

export interface ITaken {
  readonly taken: boolean;
}

export interface IWatch {
  readonly watch: ReadonlyArray<string>;
}
