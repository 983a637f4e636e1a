/**
 * Every question that the page asks its server, in the words of the schema.
 */

import { ServerConnection } from '@jupyterlab/services';

import { address, Refusal, request, requestBytes, sentence } from './request';
import type {
  ICancelled,
  ICellText,
  ICompletions,
  IDashboard,
  IDashboards,
  IDifference,
  IDocument,
  IExecution,
  IExecutionDetail,
  IFileList,
  IFiring,
  IFiringDetail,
  IGraph,
  IIdentity,
  IItemList,
  IJobCheck,
  IJobList,
  IJobQuestion,
  IJobView,
  ILineage,
  INewJob,
  INotebookView,
  IOutputs,
  IOutputsQuestion,
  IResumed,
  IRunDetail,
  IRunList,
  ISchedulePreview,
  IStatus,
  ITaken
} from './schema';

export { Refusal, sentence };

export interface IRunsQuestion {
  readonly path?: string | null;
  readonly notebookId?: string | null;
  /** Which runs, as in `metrics.rmse < 12`; a refusal's problem has the place where it cannot be read. */
  readonly query?: string | null;
  /** By what instead of the start; a minus before it is for the greatest first. */
  readonly sort?: string | null;
  /** The metric that each run comes with. */
  readonly metric?: string | null;
  readonly before?: string | null;
  readonly limit?: number;
}

export interface IItemsQuestion {
  /** One state; items of all without. */
  readonly state?: IExecution['state'];
  /** Only items after this number. */
  readonly after?: number;
  readonly limit?: number;
}

/** An artifact: by its digest, or the one that an execution, or a run's plain cell, has under a name. */
export interface IArtifactName {
  readonly digest: string;
  readonly execution?: string | null;
  /** The run whose plain cell logged it. */
  readonly run?: string | null;
  readonly name?: string | null;
}

export class Client {
  constructor(
    readonly serverSettings: ServerConnection.ISettings = ServerConnection.makeSettings()
  ) {}

  status(path: string | null = null): Promise<IStatus> {
    return request(this.serverSettings, 'GET', 'status', { notebook: path });
  }

  /** The dashboards of Dask clusters to which this server leads. */
  async dashboards(): Promise<ReadonlyArray<IDashboard>> {
    const answer = await request<IDashboards>(this.serverSettings, 'GET', 'dashboards');
    return answer.dashboards;
  }

  runs(question: IRunsQuestion): Promise<IRunList> {
    return request(this.serverSettings, 'GET', 'runs', {
      notebook: question.path,
      notebook_id: question.notebookId,
      query: question.query,
      sort: question.sort,
      metric: question.metric,
      before: question.before,
      limit: question.limit
    });
  }

  /** What a name in a query can be, of which the beginning is written. */
  async completions(prefix: string, path: string | null = null): Promise<ReadonlyArray<string>> {
    const answer = await request<ICompletions>(this.serverSettings, 'GET', 'completions', {
      prefix,
      notebook: path
    });
    return answer.names;
  }

  run(id: string, path: string | null = null): Promise<IRunDetail> {
    return request(this.serverSettings, 'GET', `runs/${id}`, { notebook: path });
  }

  runNotebook(id: string, executed: boolean, path: string | null = null): Promise<INotebookView> {
    return request(this.serverSettings, 'GET', `runs/${id}/notebook`, {
      executed: executed ? 1 : 0,
      notebook: path
    });
  }

  /**
   * What differs between a run and an earlier one.
   *
   * @param earlier - its id, or `last-success` or `run-before` of the same notebook.
   */
  difference(id: string, earlier: string, path: string | null = null): Promise<IDifference> {
    return request(this.serverSettings, 'GET', `runs/${id}/diff`, {
      with: earlier,
      notebook: path
    });
  }

  /** What an artifact was made of, and what was made of it. */
  lineage(artifact: IArtifactName, path: string | null = null): Promise<ILineage> {
    const { digest, execution, name } = artifact;
    return request(this.serverSettings, 'GET', `artifacts/${digest}/lineage`, {
      execution,
      name,
      notebook: path
    });
  }

  /** The bytes of a file that was logged. */
  content(digest: string, path: string | null = null): Promise<Uint8Array> {
    return requestBytes(this.serverSettings, `artifacts/${digest}/content`, { notebook: path });
  }

  /** Where the browser gets a file that was logged, as a download under a name. */
  contentUrl(digest: string, name: string, path: string | null = null): string {
    const query = { name, notebook: path };
    return address(this.serverSettings, `artifacts/${digest}/content`, query);
  }

  /** The files of a folder that was logged. */
  files(digest: string, path: string | null = null): Promise<IFileList> {
    return request(this.serverSettings, 'GET', `artifacts/${digest}/files`, { notebook: path });
  }

  /** Where the browser gets a picture that is kept beside its value. */
  pictureUrl(digest: string, path: string | null = null): string {
    return address(this.serverSettings, `artifacts/${digest}/picture`, { notebook: path });
  }

  cancelRun(id: string): Promise<ICancelled> {
    return request(this.serverSettings, 'POST', `runs/${id}/cancel`, {}, {});
  }

  /** Run the notebook of a run again but for what succeeded; the id of the run that has begun. */
  async resumeRun(id: string, path: string | null): Promise<string> {
    const answer = await request<IResumed>(
      this.serverSettings,
      'POST',
      `runs/${id}/resume`,
      { notebook: path },
      {}
    );
    return answer.run;
  }

  async execution(id: string, path: string | null = null): Promise<IExecution> {
    const answer = await request<IExecutionDetail>(this.serverSettings, 'GET', `executions/${id}`, {
      notebook: path
    });
    return answer.execution;
  }

  /** The items of a fan-out that are recorded, in order. */
  async items(
    execution: string,
    question: IItemsQuestion,
    path: string | null = null
  ): Promise<ReadonlyArray<IExecution>> {
    const answer = await request<IItemList>(
      this.serverSettings,
      'GET',
      `executions/${execution}/items`,
      { ...question, notebook: path }
    );
    return answer.items;
  }

  /** A page of the items of a fan-out that logged artifacts, and how many artifacts all of them did. */
  loggedItems(
    execution: string,
    question: Omit<IItemsQuestion, 'state'>,
    path: string | null = null
  ): Promise<IItemList> {
    return request(this.serverSettings, 'GET', `executions/${execution}/items`, {
      ...question,
      logged: 1,
      notebook: path
    });
  }

  cancelExecution(id: string): Promise<ICancelled> {
    return request(this.serverSettings, 'POST', `executions/${id}/cancel`, {}, {});
  }

  keepExecution(id: string): Promise<ICancelled> {
    return request(this.serverSettings, 'POST', `executions/${id}/keep`, {}, {});
  }

  graph(cells: ReadonlyArray<ICellText>): Promise<IGraph> {
    return request(this.serverSettings, 'POST', 'graph', {}, { cells });
  }

  outputs(question: IOutputsQuestion): Promise<IOutputs> {
    return request(this.serverSettings, 'POST', 'outputs', {}, question);
  }

  /** Whether the id that a notebook carries is its own, and not that of the one that it was copied from. */
  async ownsId(path: string, notebookId: string): Promise<boolean> {
    const answer = await request<IIdentity>(this.serverSettings, 'GET', 'identity', {
      notebook: path,
      notebook_id: notebookId
    });
    return answer.own;
  }

  /** Hand over the notebook as the page holds it, for the snapshot of its kernel's run. */
  document(document: IDocument): Promise<ITaken> {
    return request(this.serverSettings, 'POST', 'document', {}, document);
  }

  jobs(): Promise<IJobList> {
    return request(this.serverSettings, 'GET', 'jobs');
  }

  checkJob(question: IJobQuestion): Promise<IJobCheck> {
    return request(this.serverSettings, 'POST', 'jobs/check', {}, question);
  }

  createJob(job: INewJob): Promise<IJobView> {
    return request(this.serverSettings, 'POST', 'jobs', {}, job);
  }

  pauseJob(id: string, paused: boolean): Promise<IJobView> {
    return request(this.serverSettings, 'PATCH', `jobs/${id}`, {}, { paused });
  }

  deleteJob(id: string): Promise<IJobView> {
    return request(this.serverSettings, 'DELETE', `jobs/${id}`);
  }

  async runJob(id: string): Promise<IFiring> {
    const answer = await request<IFiringDetail>(
      this.serverSettings,
      'POST',
      `jobs/${id}/run`,
      {},
      {}
    );
    return answer.firing;
  }

  previewSchedule(cron: string, timezone: string): Promise<ISchedulePreview> {
    return request(this.serverSettings, 'POST', 'schedule/preview', {}, { cron, timezone });
  }
}
